"""Memory for a fixed number of expert records."""

from __future__ import annotations

import mmap

import numpy as np

from quant.large_pages import in_large_pages


class Arena:
    """`slots` equal slots of anonymous memory in huge pages where the system has them; page-aligned, for direct reads.

    Shapes: records [slots, slot_bytes] u8, for kernels to read · slot_bytes a multiple of 4096

    Memory is taken when a slot is first written, given back at the latest when the last array that views it is gone.
    Huge pages save a direct read from looking up each 4 KiB it writes to, and a kernel from missing its address cache.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        memory = mmap.mmap(-1, slots * slot_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        in_large_pages(memory)
        self._memory = memory
        self._written = np.zeros(slots, bool)
        self._rows = np.frombuffer(memory, np.uint8).reshape(slots, slot_bytes)
        self.records = self._rows.view()
        self.records.flags.writeable = False  # as mapped records are, so that a kernel is compiled once for both

    def slot(self, slot: int, size: int) -> np.ndarray:
        """The first `size` bytes of a slot, to write to."""
        self._written[slot] = True
        return self._rows[slot, :size]

    def forget_all(self) -> None:
        """Give all memory back to the system, whoever still views it."""
        for slot in np.flatnonzero(self._written).tolist():
            self.forget(slot)

    def forget(self, slot: int) -> int:
        """Give a slot's memory back to the system, what it holds with it, and return how many bytes that were."""
        if not self._written[slot] or not hasattr(mmap, "MADV_DONTNEED"):
            return 0
        self._written[slot] = False
        size = self._rows.shape[1]
        self._memory.madvise(mmap.MADV_DONTNEED, slot * size, size)
        return size
