"""Writing files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from quant import large_pages
from quant.errors import ResourceError

TEMPORARY = ".tmp"
RESUME = "free some space and run the same command again: it goes on where it stopped"


class FileWriter:
    """Writes a file under a temporary name; on success it is synced and renamed, on any error removed.

    `bytes` and `sha256` describe what was written. It comes in large pages, and stays so in the memory of Linux: who
    maps the file next finds them.
    """

    def __init__(self, path: Path) -> None:
        """Begin; raises ResourceError where the folder can't be written to."""
        self._path = path
        self._temporary = path.with_name(path.name + TEMPORARY)
        try:
            self._file = self._temporary.open("wb", buffering=large_pages.SIZE)
        except OSError as error:
            raise write_error(error, path) from error
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ResourceError where the disk is full."""
        try:
            for piece in large_pages.page_by_page(data, self.bytes):
                self._file.write(piece)
        except OSError as error:
            raise write_error(error, self._path) from error
        self._hash.update(data)
        self.bytes += memoryview(data).nbytes

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._hash.hexdigest()

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                self._temporary.replace(self._path)
                sync_folder(self._path.parent)
        except OSError as problem:
            raise write_error(problem, self._path) from problem
        finally:
            with suppress(OSError):  # where something failed: what did not fit before would be written once more
                self._file.close()
            self._temporary.unlink(missing_ok=True)


def write_error(error: OSError, path: Path) -> ResourceError:
    """What to show where `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(f"no space left while writing {path.name} in {path.parent}", hint=RESUME)
    return ResourceError(
        f"can't write {path}: {error.strerror or error}",
        hint="choose a folder that you may write to: with --out, MOE_HOME or HF_HOME",
    )


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
