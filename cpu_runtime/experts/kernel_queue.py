"""Records read by Linux's `io_uring`, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from cpu_runtime.experts.ring import Part, Ring
from quant.layout import PAGE

# Records read at the same time share the drive and end together, so that nothing can be computed before. So a record's
# parts are read at the same time, and each part of the next record as soon as one of these has ended.
ABREAST = 3
_PART = 256 << 10  # bytes, at least
_ENTRIES = 128


class KernelQueue:
    """Reads that are begun by one call and end on their own; raises OSError where the system has no such queue.

    Only direct reads are sure to go on in the background. What a read writes to must outlive it: `close` waits.
    """

    def __init__(self) -> None:
        self._ring = Ring(_ENTRIES)
        self._parts_left: dict[int, int] = {}
        self._bytes: dict[int, int] = {}

    def submit(self, reads: Sequence[tuple[int, int, int, np.ndarray]]) -> None:
        """Begin to fill each array from (name, descriptor, offset, array), in this order: files of one drive."""
        most = _ENTRIES // ABREAST
        for first in range(0, len(reads), most):
            parts = [part for read in reads[first : first + most] for part in self._cut(*read)]
            self._ring.submit([parts[start::ABREAST] for start in range(ABREAST)])

    def _cut(self, name: int, descriptor: int, offset: int, into: np.ndarray) -> list[Part]:
        address, size = into.ctypes.data, into.nbytes
        step = max(_PART, -(-size // (ABREAST * PAGE)) * PAGE)
        starts = range(0, size, step)
        self._parts_left[name], self._bytes[name] = len(starts), 0
        return [Part(name, descriptor, offset + at, address + at, min(step, size - at)) for at in starts]

    def ended(self, *, wait: bool) -> list[tuple[int, int]]:
        """(name, bytes read) of reads that have ended, fewer where something is wrong; with `wait` at least one."""
        found: list[tuple[int, int]] = []
        while True:
            for name, result in self._ring.completed():
                self._parts_left[name] -= 1
                self._bytes[name] += max(0, result)
                if not self._parts_left[name]:
                    del self._parts_left[name]
                    found.append((name, self._bytes.pop(name)))
            if found or not wait:
                return found
            with suppress(InterruptedError):  # a signal's handler has run, and may raise another
                self._ring.wait()

    def close(self) -> None:
        """Wait for every read under way, and give the queue back."""
        self._ring.close()
