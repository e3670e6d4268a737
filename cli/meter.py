"""What has come so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


def _nothing(_: object) -> None:
    """Tell nobody."""


@dataclass
class Meter:
    """`show` is told the durable bytes of all files asked for, which never become fewer; `say` what a person must know.

    `received` bytes came over the wire, `twice` of them again: they had not reached the disk when a run was killed, or
    were damaged, or the server knows no ranges.
    """

    show: Callable[[int], None] = _nothing
    say: Callable[[str], None] = _nothing
    received: int = 0
    twice: int = 0
    _whole: int = field(default=0, repr=False)
    _shown: int = field(default=0, repr=False)

    def partly(self, durable: int) -> None:
        """So much of the file under way is on the disk."""
        self._shown = max(self._shown, self._whole + durable)
        self.show(self._shown)

    def finished(self, size: int) -> None:
        """A file of this size is here."""
        self._whole += size
        self.partly(0)
