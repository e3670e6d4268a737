"""Messages to the ids that a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_runtime.text.channels import CLOSE, OPEN
from cpu_runtime.text.template import ChatTemplate
from cpu_runtime.text.tokenizer import Tokenizer
from quant.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation: its text and ids, and whether it ends inside the model's thinking.

    `stable` is how many leading ids the next turn's prompt is expected to repeat: templates drop or change what
    follows the last message.
    """

    text: str
    ids: list[int]
    in_reasoning: bool
    stable: int


class Chat:
    """A model's chat template over its tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> Chat:
        """The chat of a model folder."""
        return cls(ChatTemplate.load(folder), tokenizer)

    def prompt(self, messages: Sequence[dict[str, Any]], *, thinking: bool | None = None) -> Prompt:
        """Render messages (OpenAI's shape: role, content, perhaps reasoning_content) up to where the model answers.

        `thinking` switches a model's thinking on or off where its template can. Control tokens written out in a
        message are read as control tokens, as in every published use of these templates. Raises UsageError for
        messages that are malformed or that the template refuses.
        """
        # Families name the switch differently; a template ignores the name it does not know.
        switch = {} if thinking is None else {"enable_thinking": thinking, "thinking": thinking}
        cleaned = [_checked(message) for message in messages]
        text = self._template.render(messages=cleaned, add_generation_prompt=True, **switch)
        ids = self._tokenizer.encode(text)
        ended = self._template.render(messages=cleaned, add_generation_prompt=False, **switch)
        stable = _common(ids, self._tokenizer.encode(ended)) if text.startswith(ended) else 0
        return Prompt(text, ids, text.rfind(OPEN) > text.rfind(CLOSE), stable)


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _checked(message: Any) -> dict[str, Any]:
    """The message with its content as plain text."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise UsageError(f"a message needs a 'role', one of {', '.join(ROLES)}")
    content = message.get("content", "")
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError("message content may hold text parts only")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise UsageError(f"message content must be text, found {type(content).__name__}")
    return {**message, "content": content}
