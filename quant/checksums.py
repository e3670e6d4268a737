"""A file's SHA-256, and CRC-32 of each stretch of it, which names the record or tensor that is damaged."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path


def sha256(path: Path) -> str:
    """Of a whole file, in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checksums:
    """Takes a file's bytes in pieces of any size, and sums up the stretches of these `sizes` that follow its header."""

    def __init__(self, header: int, sizes: Iterable[int]) -> None:
        self._left = header
        self._sizes = iter(sizes)
        self._crc32: int | None = None  # of the stretch at hand; None in the header
        self.values: list[int] = []

    def update(self, data: bytes | memoryview) -> None:
        """Take further bytes; what follows the last stretch is not summed up."""
        rest = memoryview(data).cast("B")
        while True:
            piece, rest = rest[: self._left], rest[self._left :]
            self._left -= len(piece)
            if self._crc32 is not None:
                self._crc32 = zlib.crc32(piece, self._crc32)
            if self._left:
                return
            if self._crc32 is not None:
                self.values.append(self._crc32)
            following = next(self._sizes, None)
            if following is None:
                self._crc32, self._left = None, 1 << 63
            else:
                self._crc32, self._left = 0, following
