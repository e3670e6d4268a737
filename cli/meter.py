"""What has come so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock


def _nothing(_: object) -> None:
    """Tell nobody."""


@dataclass
class Meter:
    """`say` is told what a person must know, and `begin` whom to tell how many bytes are on the disk.

    `received` bytes came over the wire, `twice` of them again: they had not reached the disk when a run was killed,
    were damaged, belong to headers read ahead, or came because the server knows no ranges.
    """

    say: Callable[[str], None] = _nothing
    received: int = 0
    twice: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)  # headers come in several threads
    _show: Callable[[int], None] = field(default=_nothing, repr=False)
    _durable: int = field(default=0, repr=False)
    _shown: int = field(default=0, repr=False)

    def came(self, count: int) -> None:
        """So many bytes came over the wire."""
        with self._lock:
            self.received += count

    def again(self, count: int) -> None:
        """So many of what came had come before, or will come again."""
        with self._lock:
            self.twice += count

    def begin(self, present: int, show: Callable[[int], None]) -> None:
        """Show from now on the bytes that are on the disk, of which `present` are there: never fewer than before."""
        self._durable = self._shown = present
        self._show = show

    def grew(self, count: int) -> None:
        """So many more bytes are on the disk, or fewer where they were damaged."""
        self._durable += count
        self._shown = max(self._shown, self._durable)
        self._show(self._shown)
