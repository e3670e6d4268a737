"""A file's bytes from the drive itself: past the operating system's cache, which may hold what the drive has lost."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

PIECE = 8 << 20  # bytes read at a time: a multiple of any page
_PAGE = 4096


def pieces(path: Path, start: int = 0, size: int | None = None) -> Iterator[memoryview]:
    """The bytes from `start` on, `size` of them or to the end; each piece is gone when the next is asked for.

    Read directly where the file system can; elsewhere through the cache, which is told to drop them. Raises OSError,
    also where the file ends too early.
    """
    descriptor, direct = _open(path)
    try:
        buffer = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))  # begins at a page
        at = start // _PAGE * _PAGE  # and so does a direct read
        end = os.fstat(descriptor).st_size if size is None else start + size
        while at < end:
            count = _fill(descriptor, buffer, at)
            if not direct:
                _drop(descriptor, at, count)
            if at + count < min(end, at + PIECE):
                raise OSError(f"it ends after {at + count} bytes")
            yield buffer[max(start - at, 0) : min(count, end - at)]
            at += count
    finally:
        os.close(descriptor)


def _open(path: Path) -> tuple[int, bool]:
    """(descriptor, whether reads are direct)."""
    direct = getattr(os, "O_DIRECT", 0)
    if direct:
        try:
            descriptor = os.open(path, os.O_RDONLY | direct)
        except OSError:  # the file system has no direct reads, or there is no such file: the next line knows
            return os.open(path, os.O_RDONLY), False
        try:
            with mmap.mmap(-1, _PAGE) as page:
                os.preadv(descriptor, [page], 0)
            return descriptor, True
        except OSError:
            os.close(descriptor)
    return os.open(path, os.O_RDONLY), False


def _fill(descriptor: int, buffer: memoryview, at: int) -> int:
    """Read until the buffer is full or the file ends; returns the bytes read."""
    filled = 0
    while filled < len(buffer):
        count = os.preadv(descriptor, [buffer[filled:]], at + filled)
        filled += count
        if count == 0 or count % _PAGE:  # a read that stops inside a page has met the end
            break
    return filled


def _drop(descriptor: int, at: int, count: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, at, count, os.POSIX_FADV_DONTNEED)
