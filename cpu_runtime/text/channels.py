"""Splits what a model writes into its reasoning, its answer and its tool calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any

from cpu_runtime.events import Channel, ToolCall
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools.syntax import Call, Schemas

Part = tuple[Channel, str] | ToolCall


class ChannelSplitter:
    """A stream of text in, (channel, text) pieces and tool calls out; how the stream was cut makes no difference.

    Thinking ends at the first closing tag, and begins where the prompt ended inside it or where the text opens with
    the opening tag; later tags are text. A block of tool calls is held back until it is whole. One that is malformed,
    or that the stream ends in, is text of the answer, to the last character. White space around tags and blocks is
    dropped. `tools`, in OpenAI's shape, say what types the arguments have.
    """

    def __init__(self, in_reasoning: bool, syntax: ChatSyntax, tools: Sequence[dict[str, Any]] = ()) -> None:
        self._syntax = syntax
        self._schemas: Schemas = {t["function"]["name"]: t["function"].get("parameters") or {} for t in tools}
        self._held = ""  # not yet decided
        self._gap = ""  # white space before a block that may turn out to be text
        self._fresh = True  # nothing shown since a tag or a block, so that white space is dropped
        self._parts: list[Part] = []
        self._state: Callable[[], bool] = self._reasoning if in_reasoning else self._start

    @property
    def in_reasoning(self) -> bool:
        """Whether the text is inside thinking now."""
        return self._state == self._reasoning

    def feed(self, text: str) -> list[Part]:
        """What is certain now."""
        self._held += text
        while self._state():
            pass
        return self._taken()

    def finish(self) -> list[Part]:
        """What was held back in case it became a tag or a block, and did not."""
        held, self._held = self._gap + self._held, ""
        if self.in_reasoning:
            self._show("reasoning", held.rstrip())
        else:
            self._show("content", held)
        self._state = self._content
        return self._taken()

    # Each state takes what it can from the held text and says whether there is more to do, in another state perhaps.

    def _start(self) -> bool:
        """Before anything but white space: the text may still open with thinking."""
        opening, start = self._syntax.think[0], self._held.lstrip()
        if start.startswith(opening):
            self._held, self._state = start[len(opening) :], self._reasoning
        elif opening.startswith(start):
            return False
        else:
            self._state = self._content
        return True

    def _reasoning(self) -> bool:
        tools = self._syntax.tools
        ends = [self._syntax.think[1], *([tools.open] if tools and tools.ends_thinking else [])]
        tag = self._show_before("reasoning", ends)
        if tag is None:
            return False
        self._fresh, self._gap = True, ""
        if tag == self._syntax.think[1]:
            self._held, self._state = self._held[len(tag) :], self._content
        else:
            self._state = self._block
        return True

    def _content(self) -> bool:
        tools = self._syntax.tools
        if tools and self._show_before("content", [tools.open]):
            self._state = self._block
            return True
        if not tools:
            self._show("content", self._held)
            self._held = ""
        return False

    def _block(self) -> bool:
        """The held text begins with the opening of a block."""
        tools = self._syntax.tools
        assert tools
        inside, closing, after = self._held[len(tools.open) :].partition(tools.close)
        plausible = tools.plausible(inside)
        if plausible and not closing:
            return False
        calls = tools.parse(inside, self._schemas) if plausible else None
        if calls is None:
            # Only its opening is known to be text: what follows may hold a sound block.
            text, self._held = self._gap + tools.open, self._held[len(tools.open) :]
            self._show("content", text)
        else:
            self._parts += map(_event, calls)
            self._fresh, self._held = True, after
        self._gap, self._state = "", self._content
        return True

    def _show_before(self, channel: Channel, tags: Sequence[str]) -> str | None:
        """Show the held text up to the first of the tags, if one is there, or else what can't belong to one any more.

        White space before the tag goes to the gap.
        """
        found = [(at, tag) for tag in tags if (at := self._held.find(tag)) >= 0]
        if found:
            at, tag = min(found)
            text = self._held[:at]
            self._show(channel, text.rstrip())
            self._gap, self._held = text[len(text.rstrip()) :] if not self._fresh else "", self._held[at:]
            return tag
        keep = max(_beginning_at_end(self._held, tag) for tag in tags)
        sure = self._held[: len(self._held) - keep].rstrip()
        self._show(channel, sure)
        self._held = self._held[len(sure) :]
        return None

    def _show(self, channel: Channel, text: str) -> None:
        if self._fresh:
            text = text.lstrip()
        if text:
            self._fresh = False
            self._parts.append((channel, text))

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts


def _event(call: Call) -> ToolCall:
    return ToolCall(call.id or f"call_{token_hex(8)}", call.name, call.arguments)


def _beginning_at_end(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((n for n in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:n])), 0)
