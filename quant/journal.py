"""The journal of a model that is being made: what of it outlives a kill, a JSON line each, synced one by one.

The first line says what is being made, of what, how large it becomes and what a person runs to go on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import UsageError
from quant.folder_lock import LOCK, is_locked
from quant.report import Sums
from quant.writer import sync_folder

JOURNAL = "journal.jsonl"


class Journal:
    """Files that are finished, and shards of the source that are done with, with the errors of what was made.

    A journal of something else is discarded, with all that was written for it; raises UsageError instead where that
    can't be made again, since shards of its source are gone.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        source: str = "",
        resume: str = "",
        total: int = 0,
        formats: Mapping[str, str] | None = None,
    ) -> None:
        """Open or begin the journal in a folder; all but the fingerprint is noted for `unfinished` to find."""
        self._path = folder / JOURNAL
        self.finished: dict[str, dict[str, Any]] = {}
        self.sums = Sums()  # errors of the matrices in finished files
        self.shards: set[str] = set()
        self.made: dict[str, Sums] = {}  # file -> errors of the matrices that shards made of it
        lines, whole = _whole_lines(self._path)
        if self._path.exists():
            os.truncate(self._path, whole)  # a torn line, so that what is appended next begins a line of its own
        if lines and lines[0].get("fingerprint") == fingerprint:
            for line in lines[1:]:
                if "shard" in line:
                    self._note_shard(line)
                elif "sums" in line and _size(folder / line["file"]) == line["bytes"]:
                    self._note(line)
            return
        if any("shard" in line for line in lines):
            raise UsageError(
                f"{folder} holds a stopped pull of {lines[0].get('source')}, made in another way",
                hint=f"finish that one ({lines[0].get('resume')}), delete that folder, or choose another --out",
            )
        for stale in folder.iterdir():
            if stale.is_dir():
                shutil.rmtree(stale)
            elif stale.name != LOCK:
                stale.unlink()
        noted = {"source": source, "resume": resume, "total": total, "formats": dict(formats or {})}
        self._append({"fingerprint": fingerprint, **noted})
        sync_folder(folder)

    def add(self, entry: dict[str, Any]) -> None:
        """Record a finished file."""
        self._append(entry)
        self._note(entry)

    def _note(self, entry: dict[str, Any]) -> None:
        self.finished[entry["file"]] = entry
        self.sums.update(entry["sums"])

    def add_shard(self, name: str, size: int, sums: Mapping[str, Sums]) -> None:
        """Record a shard that is not needed any more: `size` bytes were made after it came, with errors by file."""
        line = {"shard": name, "bytes": size, "sums": sums}
        self._append(line)
        self._note_shard(line)

    def _note_shard(self, line: dict[str, Any]) -> None:
        self.shards.add(line["shard"])
        for file, sums in line["sums"].items():
            self.made.setdefault(file, Sums()).update(sums)

    def _append(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Unfinished:
    """What was begun in `folder`: of which source, which of its shards are done with, bytes made and in all.

    `resume` is what a person runs to go on, `formats` are those of the recipe. All empty where no journal is there, or
    says nothing.
    """

    folder: Path
    fingerprint: str
    source: str
    resume: str
    shards: frozenset[str]
    done: int
    total: int
    formats: dict[str, str]

    @property
    def running(self) -> bool:
        """Whether a process is at work on it."""
        return is_locked(self.folder)


def unfinished(folder: Path) -> Unfinished:
    """What a folder's journal says of it."""
    try:
        lines, _ = _whole_lines(folder / JOURNAL)
    except OSError:  # it was finished meanwhile
        lines = []
    first = lines[0] if lines else {}
    shards = [line for line in lines if isinstance(line.get("shard"), str)]
    done = sum(line["bytes"] for line in shards or lines if isinstance(line.get("bytes"), int))
    total, formats = first.get("total"), first.get("formats")
    return Unfinished(
        folder=folder,
        fingerprint=str(first.get("fingerprint", "")),
        source=str(first.get("source", "")),
        resume=str(first.get("resume", "")),
        shards=frozenset(line["shard"] for line in shards),
        done=done,
        total=total if isinstance(total, int) else 0,
        formats=formats if isinstance(formats, dict) else {},
    )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


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
