"""The folder in which a model is made, and how it becomes the model.

It is beside the model's final name as `<name>.partial` and renamed at the end, so that what has the name of a model is
a model.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quant.errors import UsageError
from quant.folder_lock import LOCK, locked
from quant.journal import JOURNAL
from quant.manifest import MANIFEST
from quant.writer import sync_folder, write_error


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """The folder to build the model `out` in, which gets that name at the end; this process alone has it.

    Raises UsageError where `out` exists or another process builds it, ResourceError where it can't be written.
    """
    refuse_existing(out)
    partial = partial_folder(out)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, partial) from error
    with locked(partial):
        try:
            yield partial
        except BaseException:
            if {path.name for path in partial.iterdir()} <= {LOCK, JOURNAL}:  # nothing to go on with
                shutil.rmtree(partial)
            raise
        partial.rename(out)
        sync_folder(out.parent)
        tidy(out)


def tidy(out: Path) -> Path:
    """A finished model, without the journal and lock, which outlive the renaming and a kill after it."""
    for name in (JOURNAL, LOCK):
        (out / name).unlink(missing_ok=True)
    return out


def refuse_existing(out: Path) -> None:
    """Raise UsageError where something has the name of what is to be made."""
    if out.exists():
        if (out / MANIFEST).exists():  # what else has that name is not ours to tidy
            tidy(out)
        raise UsageError(f"{out} already exists", hint="remove it, or choose another --out")


def partial_folder(out: Path) -> Path:
    """Where a model is built before it has its name."""
    return out.with_name(out.name + ".partial")
