"""Messages to the ids that a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpu_runtime.text.messages import checked, checked_tools
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.template import ChatTemplate
from cpu_runtime.text.tokenizer import Tokenizer
from quant.errors import UsageError


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation: its text and ids, and whether it ends inside the model's thinking.

    `stable` is how many leading ids the next turn's prompt is expected to repeat: templates drop or change what
    follows the last message. `tools` are those it offers.
    """

    text: str
    ids: list[int]
    in_reasoning: bool
    stable: int
    tools: list[dict[str, Any]]


class Chat:
    """A model's chat template over its tokenizer, with the syntax of its family."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, syntax: ChatSyntax) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._syntax = syntax

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer, syntax: ChatSyntax) -> Chat:
        """The chat of a model folder."""
        return cls(ChatTemplate.load(folder), tokenizer, syntax)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> Prompt:
        """Render messages and tools (in OpenAI's shape, with reasoning_content perhaps) up to where the model answers.

        `thinking` switches a model's thinking on or off. Earlier reasoning is handed to the template, which shows or
        drops it as the model was trained. Control tokens written out in a message are read as control tokens, as in
        every published use of these templates. Raises UsageError for messages or tools that are malformed or that the
        template refuses, and for thinking or tools that the model can't be without or with.
        """
        offered = self._offered(tools or ())
        variables = {**self._syntax.variables, **self._switched(thinking), **({"tools": offered} if offered else {})}
        cleaned = checked(messages, self._syntax.tools)
        text = self._template.render(messages=cleaned, add_generation_prompt=True, **variables)
        ids = self._tokenizer.encode(text)
        ended = self._template.render(messages=cleaned, add_generation_prompt=False, **variables)
        stable = _common(ids, self._tokenizer.encode(ended)) if text.startswith(ended) else 0
        return Prompt(text, ids, text.rstrip().endswith(self._syntax.think[0]), stable, offered)

    def _switched(self, thinking: bool | None) -> dict[str, bool]:
        """The variable that turns thinking on or off; models of one family may differ in whether they have it."""
        switch = self._syntax.switch
        if thinking is not None and switch and self._template.reads(switch):
            return {switch: thinking}
        if thinking is False:
            raise UsageError(
                "this model always thinks: its chat template has no switch for it",
                hint="leave --no-think (or /set think off) out; the thinking need not be shown",
            )
        return {}

    def _offered(self, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if tools and not (self._syntax.tools and self._template.reads("tools")):
            raise UsageError(
                "this model's chat template takes no tools", hint="describe them in the system message instead"
            )
        return checked_tools(tools)


def _common(left: list[int], right: list[int]) -> int:
    """Length of the common beginning."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
