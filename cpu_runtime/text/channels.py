"""Splits what a thinking model writes into its reasoning and its answer."""

from __future__ import annotations

from cpu_runtime.events import Channel

OPEN, CLOSE = "<think>", "</think>"


class ChannelSplitter:
    """A stream of text in, (channel, text) pieces out; how the stream was cut makes no difference.

    Thinking ends at the first `</think>`, and begins where the prompt ended inside it or where the text opens with
    `<think>`; later tags are text. White space around the tags is dropped.
    """

    def __init__(self, in_reasoning: bool) -> None:
        self._channel: Channel = "reasoning" if in_reasoning else "content"
        self._undecided = not in_reasoning  # the text may still open with <think>
        self._fresh = True  # nothing shown in this channel yet, so that white space is dropped
        self._held = ""

    def feed(self, text: str) -> list[tuple[Channel, str]]:
        """The pieces that are certain now."""
        self._held += text
        pieces: list[tuple[Channel, str]] = []
        if self._undecided and not self._decide():
            return pieces
        if self._channel == "reasoning":
            before, tag, after = self._held.partition(CLOSE)
            if tag:
                self._show(pieces, before.rstrip())
                self._channel, self._fresh, self._held = "content", True, after
            else:
                keep = _undecided_end(before)
                self._held = before[len(before) - keep :]
                self._show(pieces, before[: len(before) - keep])
                return pieces
        if self._fresh:
            self._held = self._held.lstrip()
        self._show(pieces, self._held)
        self._held = ""
        return pieces

    def finish(self) -> list[tuple[Channel, str]]:
        """What was held back in case it became a tag, and did not."""
        pieces: list[tuple[Channel, str]] = []
        held = self._held.rstrip() if self._channel == "reasoning" else self._held
        self._undecided, self._held = False, ""
        self._show(pieces, held)
        return pieces

    def _decide(self) -> bool:
        """Whether it is known by now if the text opens with <think>."""
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._channel, self._held = "reasoning", start[len(OPEN) :]
        elif OPEN.startswith(start):
            return False
        self._undecided = False
        return True

    def _show(self, pieces: list[tuple[Channel, str]], text: str) -> None:
        if self._fresh and self._channel == "reasoning":
            text = text.lstrip()
        if text:
            self._fresh = False
            pieces.append((self._channel, text))


def _undecided_end(text: str) -> int:
    """Length of the end that may belong to a closing tag: part of it, and the white space before it."""
    part = next((n for n in range(min(len(text), len(CLOSE) - 1), 0, -1) if text.endswith(CLOSE[:n])), 0)
    rest = text[: len(text) - part]
    return part + len(rest) - len(rest.rstrip())
