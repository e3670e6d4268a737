"""Writing files that are either whole or not there, and a journal of those that are whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from quant.errors import ResourceError, UsageError

TEMPORARY = ".tmp"
RESUME = "free some space and run the same command again: it goes on where it stopped"


class FileWriter:
    """Writes a file under a temporary name; on success it is synced and renamed, on any error removed.

    `bytes` and `sha256` describe what was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(path.name + TEMPORARY)
        self._file = self._temporary.open("wb")
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises ResourceError where the disk is full."""
        try:
            self._file.write(data)
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
            try:
                self._file.close()
            finally:
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


class Journal:
    """Finished files of a conversion, and shards of its source that are done with, a JSON line each, synced one by one.

    The first line says what is being made. A journal of something else is discarded, with all that was written for it;
    raises UsageError instead where that can't be made again, since shards of its source are gone.
    """

    NAME = "journal.jsonl"

    def __init__(self, folder: Path, fingerprint: str, source: str = "") -> None:
        self._path = folder / self.NAME
        self.finished: dict[str, dict[str, Any]] = {}
        self.shards: set[str] = set()
        lines, whole = _whole_lines(self._path)
        if self._path.exists():
            os.truncate(self._path, whole)  # a torn line, so that what is appended next begins a line of its own
        if lines and lines[0].get("fingerprint") == fingerprint:
            self.shards.update(line["shard"] for line in lines[1:] if "shard" in line)
            for line in (line for line in lines[1:] if "file" in line):
                path = folder / line["file"]
                if path.exists() and path.stat().st_size == line["bytes"]:
                    self.finished[line["file"]] = line
            return
        if any("shard" in line for line in lines):
            raise UsageError(
                f"{folder} holds a stopped pull of {lines[0].get('source')}, made in another way",
                hint="finish that one with the command that began it, delete that folder, or choose another --out",
            )
        for stale in folder.iterdir():
            if stale.is_dir():
                shutil.rmtree(stale)
            elif stale.name != LOCK:
                stale.unlink()
        self._append({"fingerprint": fingerprint, "source": source})

    def add(self, entry: dict[str, Any]) -> None:
        """Record a finished file."""
        self._append(entry)
        self.finished[entry["file"]] = entry

    def add_shard(self, name: str) -> None:
        """Record a shard of the source that is not needed any more."""
        self._append({"shard": name})
        self.shards.add(name)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if "fingerprint" in entry:
            sync_folder(self._path.parent)


def begun(folder: Path) -> tuple[str, str, set[str]]:
    """(fingerprint, source, shards that are done with) of what is being made in a folder; empty where nothing is."""
    lines, _ = _whole_lines(folder / Journal.NAME)
    first = lines[0] if lines else {}
    shards = {line["shard"] for line in lines if "shard" in line}
    return str(first.get("fingerprint", "")), str(first.get("source", "")), shards


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the journal's lines, their bytes) up to the first that was torn by a power loss: its file is made again."""
    lines: list[dict[str, Any]] = []
    whole = 0
    for text in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not text.endswith(b"\n"):
            break
        lines.append(line)
        whole += len(text)
    return lines, whole


LOCK = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; raises UsageError where another has it."""
    import fcntl

    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"another process is already writing {folder}", hint="wait for it, or stop it") from error
        yield
    finally:
        os.close(descriptor)
