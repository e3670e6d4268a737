"""What happens while a model answers, in order: Prefill..., Piece or ToolCall..., Done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Channel = Literal["reasoning", "content"]
FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Prefill:
    """`done` of `total` prompt tokens are read, or as much work as that; `cached` more were remembered from before."""

    done: int
    total: int
    cached: int
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Prompt tokens a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this rate; None before there is one."""
        return (self.total - self.done) / self.tokens_per_s if self.tokens_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain; `token_id` is the token that made it so, None at the end of the answer."""

    text: str
    channel: Channel
    token_id: int | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool to be run; `arguments` are values that JSON can hold, `id` is what the result names."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted; cached ones are part of the prompt's, reasoning ones part of the completion's."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent and tokens computed in each phase."""

    prefill_s: float
    decode_s: float
    prefill_tokens: int
    decode_tokens: int

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens a second."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens a second."""
        return self.decode_tokens / self.decode_s if self.decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is complete: `token_ids` are all generated tokens, a stop token included; `seed` repeats the draw.

    The reason is "tool_calls" where the model ended its turn after calling a tool.
    """

    finish_reason: FinishReason
    token_ids: list[int]
    usage: Usage
    timings: Timings
    seed: int


Event = Prefill | Piece | ToolCall | Done
