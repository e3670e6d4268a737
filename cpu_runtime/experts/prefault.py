"""Mapped records asked for before they are computed with, whole."""

from __future__ import annotations

import ctypes
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor

from quant.container import ExpertRecords

_POPULATE_READ = 22  # of madvise; Linux 5.14
_AT_ONCE = 16  # records that the drive is asked for: each thread waits for one large page at a time


class Prefault:
    """Brings records that are in no memory into it; where that can't be asked, any record.

    Pages are touched, not asked for in advance: only so does Linux read the large ones that a map was advised to have.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def bring(self, mapped: ExpertRecords, experts: list[int]) -> None:
        """Ask for the records of these experts; does not wait for them."""
        size = mapped.records.shape[1]
        start = mapped.records.ctypes.data
        away = [expert for expert in experts if not self._in_memory(start + expert * size)]
        if not away:
            return
        if self._libc is None:
            for expert in away:
                advise(mapped, "MADV_WILLNEED", expert * size, size)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, "prefault")
        for expert in away:
            self._pool.submit(self._madvise, start + expert * size, size, _POPULATE_READ)

    def _madvise(self, address: int, size: int, advice: int) -> None:
        """Where it fails, for one because Linux is older, records come when they are computed with."""
        assert self._libc is not None
        self._libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice)

    def _in_memory(self, address: int) -> bool:
        """Whether the page at an address is; Linux says so of all of a file that the caller may not write to."""
        found = ctypes.c_ubyte(self._libc is not None)
        if self._libc is not None:
            self._libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(1), ctypes.byref(found))
        return bool(found.value & 1)

    def close(self) -> None:
        """Wait for the records under way, and for no other."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def advise(mapped: ExpertRecords, advice: str, start: int, size: int) -> None:
    """Pass advice on a byte range of the records to the operating system, where it takes advice."""
    option = getattr(mmap, advice, None)
    if option is not None and mapped.mapping is not None:
        mapped.mapping.madvise(option, mapped.offset + start, size)
