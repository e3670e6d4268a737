"""A lock that gives a folder to one process: held while it lives, and gone with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quant.errors import UsageError

LOCK = "lock"


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


def is_locked(folder: Path) -> bool:
    """Whether another process has a folder."""
    try:
        with locked(folder, create=False):
            return False
    except UsageError:
        return True
    except OSError:  # no lock: nobody is at work
        return False
