"""A conversation with a model: its messages, its settings, and the session that remembers what was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cli.answer import Answer
from quant.errors import UsageError

if TYPE_CHECKING:
    from cpu_runtime.engine import Engine
    from cpu_runtime.events import Event
    from cpu_runtime.sampling import SamplingParams


class Conversation:
    """Messages to and fro; `last` is the latest answer."""

    def __init__(
        self,
        engine: Engine,
        params: SamplingParams,
        *,
        system: str | None,
        thinking: bool | None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.engine = engine
        self.params = params
        self.thinking = thinking
        self.tools = tools
        self.messages: list[dict[str, Any]] = []
        self.last: Answer | None = None
        self._session = engine.session()
        if system:
            self.set_system(system)

    @property
    def tokens(self) -> int:
        """Tokens that the model remembers."""
        return len(self._session.tokens)

    @property
    def system(self) -> str | None:
        """The system message, if there is one."""
        first = self.messages[0] if self.messages else {}
        return first["content"] if first.get("role") == "system" else None

    def set_system(self, text: str) -> None:
        """Replace the system message; an empty one removes it."""
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def ask(self, text: str) -> Iterator[Event]:
        """Add a question and stream its answer, which `keep` then adds; a refused prompt is taken back."""
        self.messages.append({"role": "user", "content": text})
        try:
            yield from self._answer()
        except UsageError:
            self.messages.pop()
            raise

    def again(self) -> Iterator[Event]:
        """Drop the last answer and stream another to the same question."""
        if not any(message["role"] == "user" for message in self.messages):
            raise UsageError("there is nothing to answer yet")
        while self.messages[-1]["role"] != "user":
            self.messages.pop()
        yield from self._answer()

    def keep(self, answer: Answer) -> None:
        """Add an answer, or what came of it before it was interrupted."""
        self.last = answer
        self.messages.append(answer.message)

    def undo(self) -> None:
        """Take the last question back, with its answer."""
        while self.messages and self.messages[-1]["role"] != "user":
            if self.messages[-1]["role"] == "system":
                return
            self.messages.pop()
        if self.messages:
            self.messages.pop()

    def clear(self) -> None:
        """Start anew, with the same system message."""
        self.messages = self.messages[:1] if self.system is not None else []

    def replace(self, messages: list[dict[str, Any]]) -> None:
        """Go on with other messages."""
        self.messages = list(messages)

    def _answer(self) -> Iterator[Event]:
        prompt = self.engine.chat.prompt(self.messages, tools=self.tools, thinking=self.thinking)
        yield from self._session.generate(
            prompt.ids, self.params, in_reasoning=prompt.in_reasoning, stable=prompt.stable, tools=prompt.tools
        )
