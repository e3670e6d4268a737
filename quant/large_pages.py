"""Pages of 2 MiB, in which a CPU finds its way through gigabytes with few look-ups; see `cpu_runtime/LOG.md`."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress

SIZE = 2 << 20


def in_large_pages(memory: mmap.mmap, start: int = 0, size: int | None = None) -> None:
    """Ask for `size` bytes from `start` on, all of the map if left out, in large pages, where the system has them.

    Bytes of a file are read from the drive in such pages from then on; what is in memory already stays as it is.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    with suppress(OSError):  # a Linux built without them
        memory.madvise(mmap.MADV_HUGEPAGE, first, (len(memory) if size is None else start + size) - first)


def page_by_page(data: bytes | memoryview, at: int) -> Iterator[memoryview]:
    """`data` in pieces that end where large pages do, if its first byte is the file's byte `at`."""
    rest = memoryview(data).cast("B")
    while rest:
        size = SIZE - at % SIZE
        yield rest[:size]
        rest, at = rest[size:], at + size
