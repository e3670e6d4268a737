"""Whether a file is what the Hub says it is, and remembering that it was looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli import store
from cli.hub_listing import RemoteFile
from quant.writer import write_error

_PIECE = 16 << 20  # bytes read at a time


def new(file: RemoteFile) -> Any:
    """What to feed a file to: SHA-256 where the Hub has one, or git's own id, which hashes the size before the file."""
    return hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


def is_intact(path: Path, file: RemoteFile, on_bytes: Callable[[int], None] = lambda done: None) -> bool:
    """Whether a file has the size and the checksum that the Hub announces."""
    if path.stat().st_size != file.size:
        return False
    digest, done = new(file), 0
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE):
            digest.update(piece)
            done += len(piece)
            on_bytes(done)
    return bool(digest.hexdigest() == file.key)


def remember(path: Path, file: RemoteFile) -> None:
    """Note that a file was found intact, so that hundreds of gigabytes are not read again by every pull."""
    notes = _notes()
    try:
        notes.parent.mkdir(parents=True, exist_ok=True)
        with notes.open("a") as opened:
            opened.write(json.dumps(_stamp(path, file)) + "\n")
    except OSError as error:
        raise write_error(error, notes) from error


def is_known(path: Path, file: RemoteFile) -> bool:
    """Whether a file was found intact before, and has not been written to since."""
    try:
        lines = _notes().read_text().splitlines()
    except OSError:
        return False
    return json.dumps(_stamp(path, file)) in lines


def _stamp(path: Path, file: RemoteFile) -> list[Any]:
    real = path.resolve()
    status = real.stat()
    return [str(real), file.key, status.st_size, status.st_mtime_ns, status.st_ino]


def _notes() -> Path:
    return store.cache_folder() / "verified.jsonl"
