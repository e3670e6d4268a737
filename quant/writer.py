"""Writing files that are either whole or not there, and a journal of those that are whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from quant.errors import ResourceError, UsageError
from quant.report import Sums

RESUME = "free some space and run the same command again: it goes on where it stopped"


class FileWriter:
    """Writes a file under a temporary name; on success it is synced and renamed, on any error removed.

    `bytes` and `sha256` describe what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = self._temporary.open("wb")
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ResourceError where the disk is full."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _explained(error, self._path) from error
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
            raise _explained(problem, self._path) from problem
        finally:
            try:
                self._file.close()
            finally:
                self._temporary.unlink(missing_ok=True)


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(f"no space left while writing {path.name} in {path.parent}", hint=RESUME)
    return ResourceError(f"can't write {path}: {error.strerror or error}")


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Journal:
    """Finished files of a conversion, a JSON line each, synced one by one; its first line says what is being made.

    A journal of something else is discarded, with everything that was written for it.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, fingerprint: str, facts: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Open or begin the journal in a folder; `facts` are noted in the first line for `unfinished` to find."""
        self._path = folder / self.NAME
        self.finished: dict[str, dict[str, Any]] = {}
        self.sums = Sums()  # errors of the matrices in finished files
        lines = self._lines()
        if lines and lines[0].get("fingerprint") == fingerprint:
            for line in lines[1:]:
                path = folder / line["file"]
                if "sums" in line and path.exists() and path.stat().st_size == line["bytes"]:
                    self._note(line)
            return
        for stale in folder.iterdir():
            if stale.name != LOCK:
                stale.unlink()
        self._append({"fingerprint": fingerprint, **facts})

    def _lines(self) -> list[dict[str, Any]]:
        lines = []
        if self._path.exists():
            for text in self._path.read_text().splitlines():
                try:
                    lines.append(json.loads(text))
                except ValueError:  # the last line of a run that lost power: its file is simply made again
                    break
            # Cut a torn line off, so that what is appended next begins a line of its own.
            self._path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return lines

    def add(self, entry: dict[str, Any]) -> None:
        """Record a finished file."""
        self._append(entry)
        self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        self.finished[entry["file"]] = entry
        self.sums.update(entry["sums"])

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """The conversion is complete."""
        self._path.unlink()


@dataclass(frozen=True)
class Unfinished:
    """A conversion that was begun in a folder: bytes done and in all, what a person runs to go on, if it is at work."""

    done: int
    total: int
    resume: str
    running: bool


def unfinished(folder: Path) -> Unfinished:
    """What a folder's journal says of it; zeros and nothing to run where it says nothing."""
    lines = []
    try:
        for text in (folder / Journal.NAME).read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(text))
    except (OSError, ValueError):
        pass  # none yet, or a torn last line: what could be read counts
    entries = [line for line in lines if isinstance(line, dict)]
    first = entries[0] if entries else {}
    done = sum(entry["bytes"] for entry in entries[1:] if isinstance(entry.get("bytes"), int))
    total = first.get("total")
    running = _is_locked(folder)
    return Unfinished(done, total if isinstance(total, int) else 0, str(first.get("resume", "")), running)


LOCK = "lock"


def _is_locked(folder: Path) -> bool:
    try:
        with locked(folder, create=False):
            return False
    except UsageError:
        return True
    except OSError:  # no lock: nobody is at work
        return False


@contextmanager
def locked(folder: Path, *, create: bool = True) -> Iterator[None]:
    """Hold a folder for this process alone; raises UsageError where another has it."""
    import fcntl

    descriptor = os.open(folder / LOCK, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another process is already writing {folder}", hint="wait for it, or stop it") from error
        yield
    finally:
        os.close(descriptor)
