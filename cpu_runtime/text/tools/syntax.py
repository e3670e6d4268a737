"""What there is to say of any tool-call syntax."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

# The JSON schema of each tool's parameters, by the tool's name.
Schemas = Mapping[str, Mapping[str, Any]]


class Call(NamedTuple):
    """A call as the model wrote it; `id` where the syntax has one."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class ToolSyntax:
    """Calls stand in blocks from `open` to `close`.

    `parse` makes calls of the text between the two, or None where it is malformed. `plausible` says whether a text
    may be the beginning of what `parse` takes, so that an `open` in mere prose does not hold the answer back; where
    it says no, it says no to every longer text. `markers` are the texts that some tokenizers have as control tokens.

    Of earlier calls a template wants the `arguments` as an object or as JSON text, and `without_text` as the content
    of a message that only calls. `ends_thinking` says that a block also ends thinking that was not closed: such a
    model goes from thinking straight to calls, and its `open` is a control token that no prose contains.
    """

    open: str
    close: str
    parse: Callable[[str, Schemas], list[Call] | None]
    plausible: Callable[[str], bool]
    markers: tuple[str, ...]
    arguments: Literal["object", "text"]
    without_text: str | None = ""
    ends_thinking: bool = False


def begins_with(first: str) -> Callable[[str], bool]:
    """A `plausible` for blocks that begin with a fixed text, perhaps after white space."""
    start = re.compile(rf"\s*(.{{0,{len(first)}}})", re.DOTALL)

    def plausible(text: str) -> bool:
        found = start.match(text)
        return found is not None and first.startswith(found[1])

    return plausible


def repeated(pattern: re.Pattern[str], text: str) -> list[re.Match[str]] | None:
    """The matches that make up the text one after another, white space aside; None where something else is there."""
    matches, at = [], 0
    while match := pattern.match(text, at):
        matches.append(match)
        at = match.end()
    return None if text[at:].strip() else matches
