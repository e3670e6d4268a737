"""A file that is not whole yet: `FILE.part`, and a journal of how much of it has reached the disk.

Every so many bytes the part is synced, then a line with its length and checksum is added to `FILE.part.journal` and
synced too. After a kill or a power loss what the last true line covers is kept, to the byte; what was written beyond
it may be anything and is fetched again.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cli import checksum
from cli.hub_errors import WebPage
from cli.hub_listing import RemoteFile
from quant.errors import ResourceError, UsageError
from quant.writer import sync_folder, write_error

CHECKPOINT_BYTES = 64 << 20  # fetched between two syncs, at most
CHECKPOINT_SECONDS = 2.0
PART, JOURNAL = ".part", ".part.journal"
_PIECE = 4 << 20  # bytes read at a time


class PartFile:
    """The beginning of `file`, which will be at `target`; held by this process alone while it is open.

    `bytes` are here, `durable` of them on the disk; `lost` were here when an earlier run was stopped and had not
    reached it.
    """

    def __init__(self, file: RemoteFile, target: Path) -> None:
        self._remote, self._target = file, target
        self._path = target.with_name(target.name + PART)
        self._journal_path = target.with_name(target.name + JOURNAL)
        self.bytes = self.durable = self.lost = 0

    def __enter__(self) -> PartFile:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
            try:
                self._take_up()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise write_error(error, self._path) from error
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not self._file.closed:
                self.checkpoint()
        finally:
            self._file.close()

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ResourceError where the disk is full."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise write_error(error, self._path) from error
        self._digest.update(data)
        self.bytes += len(data)
        due = self.bytes - self.durable >= CHECKPOINT_BYTES or time.monotonic() >= self._due
        if due or self.bytes == self._remote.size:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make all that was written outlive a power loss."""
        if self.bytes == self.durable:
            return
        try:
            os.fsync(self._file.fileno())
            with self._journal_path.open("a") as journal:
                journal.write(json.dumps({"bytes": self.bytes, "digest": self._digest.hexdigest()}) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise write_error(error, self._path) from error
        self.durable = self.bytes
        self._due = time.monotonic() + CHECKPOINT_SECONDS

    @property
    def intact(self) -> bool:
        """Whether all of it is here and has the checksum it should have."""
        return self.bytes == self._remote.size and self._digest.hexdigest() == self._remote.key

    def restart(self) -> None:
        """Throw everything away."""
        self._keep(0, checksum.new(self._remote), [])

    def discard(self) -> None:
        """Delete it."""
        drop_journal(self._target)
        self._path.unlink(missing_ok=True)
        self.bytes = self.durable = 0
        self._file.close()

    def refuse_web_page(self) -> None:
        """Raise WebPage, and throw everything away, where it begins as a page for people does."""
        self._file.seek(0)
        if re.match(rb"\s*<(!doctype html|html)", self._file.read(64), re.IGNORECASE):
            self.restart()
            raise WebPage(self._remote.name)

    def finish(self) -> None:
        """Give a whole and intact part its name."""
        assert self.intact
        try:
            os.fsync(self._file.fileno())
            self._path.replace(self._target)
            sync_folder(self._target.parent)
            drop_journal(self._target)  # only now: a part without its journal would be fetched again
        except OSError as error:
            raise write_error(error, self._target) from error
        self.durable = self.bytes
        self._file.close()

    def _locked(self) -> BinaryIO:
        while True:
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise UsageError(
                    f"another process is fetching {self._remote.name} to {self._target.parent}",
                    hint="wait for it, or stop it",
                ) from error
            # Who held the lock before may have given the file its final name: then it is not ours to write to.
            if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                return file
            file.close()

    def _take_up(self) -> None:
        """Keep as much as the journal vouches for and the disk still has."""
        size = os.fstat(self._file.fileno()).st_size
        digest, kept = checksum.new(self._remote), 0
        best, lines = digest.copy(), []
        for line in _lines(self._journal_path):
            if not kept < line["bytes"] <= min(size, self._remote.size):
                break
            _read_into(digest, self._file, line["bytes"] - kept)
            if digest.hexdigest() != line["digest"]:
                break
            kept, best = line["bytes"], digest.copy()
            lines.append(line)
        self.lost = max(0, min(size, self._remote.size) - kept)
        self._keep(kept, best, lines)

    def _keep(self, count: int, digest: Any, lines: list[dict[str, Any]]) -> None:
        self._file.truncate(count)
        self._file.seek(count)
        fresh = self._journal_path.with_name(self._journal_path.name + ".tmp")
        with fresh.open("w") as journal:
            journal.write("".join(json.dumps(line) + "\n" for line in lines))
            journal.flush()
            os.fsync(journal.fileno())
        fresh.replace(self._journal_path)
        sync_folder(self._path.parent)
        self._digest = digest
        self.bytes = self.durable = count
        self._due = time.monotonic() + CHECKPOINT_SECONDS


def drop_journal(target: Path) -> None:
    """Delete the journal of a file that is whole; a kill may have left it."""
    target.with_name(target.name + JOURNAL).unlink(missing_ok=True)


def durable_bytes(target: Path) -> int:
    """How much of a file that is not whole an earlier run left, as its journal says; without reading the part."""
    part, journal = target.with_name(target.name + PART), target.with_name(target.name + JOURNAL)
    size = part.stat().st_size if part.exists() else 0
    return max((line["bytes"] for line in _lines(journal) if line["bytes"] <= size), default=0)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The journal's lines up to the first that is torn."""
    try:
        text = path.read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            return
        if not isinstance(value, dict) or not isinstance(value.get("bytes"), int) or "digest" not in value:
            return
        yield value


def _read_into(digest: Any, file: BinaryIO, count: int) -> None:
    while count:
        data = file.read(min(_PIECE, count))
        if not data:
            raise ResourceError(f"{file.name} became shorter while it was read")
        digest.update(data)
        count -= len(data)
