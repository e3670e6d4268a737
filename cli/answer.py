"""One answer of a model, shown as it comes; Ctrl-C ends the answer and keeps what there is of it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from cli import output

if TYPE_CHECKING:
    from cpu_runtime.events import Done, Event, Prefill, ToolCall

WARMING = "getting ready (the first time, kernels are compiled for this CPU)"


@dataclass
class Answer:
    """What the model said; `done` is missing where it was interrupted."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    done: Done | None = None

    @property
    def message(self) -> dict[str, Any]:
        """As a message of the conversation."""
        thought = {"reasoning_content": self.reasoning} if self.reasoning else {}
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _json(call.arguments)},
            }
            for call in self.tool_calls
        ]
        return {"role": "assistant", "content": self.text, **thought, **({"tool_calls": calls} if calls else {})}

    def to_json(self) -> dict[str, Any]:
        """As `moe run --json` prints it."""
        assert self.done
        usage, timings = self.done.usage, self.done.timings
        return {
            "text": self.text,
            "reasoning": self.reasoning,
            "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in self.tool_calls],
            "token_ids": self.done.token_ids,
            "finish_reason": self.done.finish_reason,
            "usage": {name: getattr(usage, name) for name in usage.__slots__},
            "timings": {
                **{name: getattr(timings, name) for name in timings.__slots__},
                "prefill_tps": timings.prefill_tps,
                "decode_tps": timings.decode_tps,
            },
            "seed": self.done.seed,
        }

    def statistics(self) -> str:
        """One line for the person who asked."""
        if not self.done:
            return "[ interrupted ]"
        t, u = self.done.timings, self.done.usage
        cached = f" + {u.cached_tokens} remembered" if u.cached_tokens else ""
        return (
            f"[ prompt {t.prefill_tokens}{cached} tokens, {t.prefill_tps:.0f} t/s | "
            f"answer {t.decode_tokens} tokens, {t.decode_tps:.1f} t/s | {self.done.finish_reason} ]"
        )


def show(events: Iterator[Event], *, text: bool = True, thinking: bool = True) -> Answer:
    """Print an answer while it comes, its thinking dimmed, each tool call on a line; with neither, only collect it."""
    from cpu_runtime.events import Done, Piece, Prefill, ToolCall

    answer = Answer()
    with interruptible() as stopped:
        for event in events:
            if isinstance(event, Prefill):
                _show_prefill(event)
            elif isinstance(event, Piece) and event.channel == "reasoning":
                answer.reasoning += event.text
                if text and thinking:
                    output.write(event.text, dim=True)
            elif isinstance(event, Piece):
                if text and thinking and answer.reasoning and not answer.text:
                    output.write("\n\n")
                answer.text += event.text
                if text:
                    output.write(event.text)
            elif isinstance(event, ToolCall):
                if text:
                    begun = answer.text or answer.tool_calls or (thinking and answer.reasoning)
                    output.write(f"{chr(10) if begun else ''}tool call: {event.name} {_json(event.arguments)}")
                answer.tool_calls.append(event)
            elif isinstance(event, Done):
                answer.done = event
            if stopped():
                events.close()  # type: ignore[attr-defined]  # every stream of events is a generator
                break
    if text and (answer.text or answer.tool_calls or (thinking and answer.reasoning)):
        output.write("\n")
    return answer


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _show_prefill(event: Prefill) -> None:
    if event.done < event.total and (event.total > 512 or event.seconds > 1):
        left = event.seconds_left
        rate = "" if left is None else f", {event.tokens_per_s:.1f} t/s, {left:.0f} s left"
        output.transient(f"reading the prompt: {event.done} of {event.total} tokens{rate}")
    elif event.done == event.total:
        output.transient("")


@contextmanager
def interruptible() -> Iterator[Any]:
    """Ctrl-C sets a flag, which the yielded function reads; a second one interrupts at once."""
    count = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)


def shows_thinking(asked: bool) -> bool:
    """Thinking is for people: on a terminal, or where it was asked for."""
    return asked or sys.stdout.isatty()
