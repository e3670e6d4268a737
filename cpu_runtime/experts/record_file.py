"""One layer's experts on disk, read a record at a time."""

from __future__ import annotations

import os
import sys

import numpy as np

from quant.container import ExpertRecords
from quant.errors import CheckpointError
from quant.layout import PAGE
from quant.manifest_file import AGAIN


class RecordFile:
    """Reads whole records past the operating system's cache (`direct`) or through it; raises OSError where it can't.

    A direct read costs no copy and pushes nothing else out of memory, but a file system may refuse it.
    """

    def __init__(self, layer: ExpertRecords, *, direct: bool) -> None:
        self.layer = layer
        self.record_bytes = layer.records.shape[1]
        self.direct = direct
        self._descriptor = os.open(layer.path, os.O_RDONLY | (getattr(os, "O_DIRECT", 0) if direct else 0))
        if direct and not hasattr(os, "O_DIRECT"):
            try:
                _without_cache(self._descriptor)
            except OSError:
                os.close(self._descriptor)
                raise

    def place(self, expert: int) -> tuple[int, int]:
        """(file descriptor, offset) of a record."""
        return self._descriptor, self.layer.offset + expert * self.record_bytes

    def read(self, expert: int, into: np.ndarray) -> None:
        """Fill `into` [record_bytes] u8 with a record; raises CheckpointError naming file, layer and expert.

        Safe to call from many threads at once.
        """
        rest, at = memoryview(into.data), self.place(expert)[1]
        while rest:
            try:
                count = os.preadv(self._descriptor, [rest], at)
            except OSError as error:
                raise self._fault(expert, error.strerror or str(error)) from error
            # A direct read that stops inside a page has met the end of the file: it can't go on from there.
            if count == 0 or (self.direct and count % PAGE):
                read = self.record_bytes - len(rest) + count
                raise self._fault(expert, f"{read} of {self.record_bytes} bytes could be read")
            rest, at = rest[count:], at + count

    def _fault(self, expert: int, what: str) -> CheckpointError:
        where = f"{self.layer.path}: expert {expert} of layer {self.layer.layer}"
        return CheckpointError(f"{where}: {what}", hint=f"check the drive; {AGAIN}")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _without_cache(descriptor: int) -> None:
    """What O_DIRECT is elsewhere; raises OSError where there is no such thing."""
    import fcntl

    if sys.platform != "darwin":
        raise OSError("this system has no direct reads")
    fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
