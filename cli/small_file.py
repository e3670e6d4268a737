"""Small files that are whole or not there, whoever is killed and whoever writes beside us."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a file's text, and make its folder where there is none; raises OSError.

    The temporary name is the same each time, so that the next writing takes up what a kill left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    while True:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT, mode), "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), temporary):
                continue  # another process has given it the final name while we waited
            file.truncate(0)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
