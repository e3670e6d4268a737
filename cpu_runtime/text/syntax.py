"""What a family writes besides plain text: thinking, tool calls, ends of turns; its file holds one as `chat`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cpu_runtime.text.tools.syntax import ToolSyntax


@dataclass(frozen=True)
class ChatSyntax:
    """How a family marks what it writes, and what its template has to be told.

    `think` are the tags around thinking; `switch` is the template's variable that turns thinking on and off, None
    where the model always thinks. `stops` are tokens that end a turn, by their text, besides those that the model's
    files name. `variables` are handed to the template as they are.
    """

    tools: ToolSyntax | None = None
    think: tuple[str, str] = ("<think>", "</think>")
    switch: str | None = None
    stops: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def markers(self) -> frozenset[str]:
        """Texts that are recognized in an answer, so that they are text even where they are control tokens."""
        return frozenset(self.think) | frozenset(self.tools.markers if self.tools else ())
