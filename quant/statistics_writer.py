"""Writing statistics: an expert layer at a time, whole or not at all, going on where a kill stopped it."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import BinaryIO

import numpy as np

from quant.building import partial_folder
from quant.errors import UsageError
from quant.folder_lock import LOCK, locked
from quant.plan import Plan
from quant.statistics_layout import header, mean_name, squares_name, tensor_bytes, tensors, tokens_name
from quant.statistics_reached import Reached, read_reached, write_reached
from quant.writer import TEMPORARY, sync_folder, write_error

KEEP_SECONDS = 60.0  # what a kill costs besides a layer; the hidden states of a long text take seconds to write
WRITTEN, REACHED = "statistics", "reached.safetensors"  # in the folder
_LARGEST = np.float32(65504)  # of fp16


class StatisticsWriter:
    """Takes what a model's matrices have read in the order of the file, which has its name once all of it is there.

    It is made in the folder `<name>.partial`, where `keep` leaves what going on takes. `reached` is what a process that
    collected the same left there, whose layers need not be given again; None where there is nothing.
    """

    def __init__(self, path: Path, plan: Plan, facts: dict[str, str], reader: str = "") -> None:
        """`facts` are the metadata, see `statistics_layout`; `reader` is the checksum of the model that reads."""
        self._path, self._folder = path, partial_folder(path)
        self._tensors = list(tensors(plan).items())
        self._head = header(plan, facts)
        self._collected = hashlib.sha256(self._head + reader.encode()).hexdigest()
        self._done = 0  # tensors
        self._kept = monotonic()
        self.reached: Reached | None = None

    def add_experts(self, layer: int, tokens: np.ndarray, squares: dict[str, np.ndarray]) -> None:
        """The next layer: tokens [E] i64 that each expert saw, and by part the sums of its inputs' squares [E, C] f64.

        Parts are those that read something of their own: gate, down.
        """
        self._put(tokens_name(layer), tokens)
        for part, sums in squares.items():
            means = sums / np.maximum(tokens, 1)[:, None]
            mean = means.mean(1)
            shares = means / np.where(mean > 0, mean, 1)[:, None]
            self._put(mean_name(layer, part), mean)
            self._put(squares_name(layer, part), np.minimum(shares, _LARGEST))

    def add_dense(self, means: dict[str, np.ndarray]) -> None:
        """The last ones: the mean squares of the inputs of dense matrices, [C]; zeros for those that are left out."""
        for name, (_, shape) in self._tensors[self._done :]:
            self._put(name, means.get(name, np.zeros(shape)))

    def keep(self, reached: Reached) -> None:
        """After a layer: leave what going on takes, if that was not done in the last KEEP_SECONDS.

        Raises ResourceError where the disk is full; what was left before is still there.
        """
        if monotonic() - self._kept < KEEP_SECONDS:
            return
        self._sync()  # first, so that what is said to be written is
        write_reached(self._folder / REACHED, reached, self._collected, self._done)
        self._kept = monotonic()

    def _put(self, name: str, values: np.ndarray) -> None:
        expected, (dtype, shape) = self._tensors[self._done]
        assert (name, values.shape) == (expected, shape), f"{expected} comes before {name}"
        kind = {"I64": "<i8", "F32": "<f4", "F16": "<f2"}[dtype]
        self._write(np.ascontiguousarray(values, kind).data)
        self._done += 1

    def _write(self, data: bytes | memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise write_error(error, self._path) from error

    def _sync(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(error, self._path) from error

    def __enter__(self) -> StatisticsWriter:
        try:
            self._folder.mkdir(exist_ok=True)
            with ExitStack() as held:
                held.enter_context(locked(self._folder))
                held.callback(_tidy, self._folder)
                self._file = held.enter_context(self._opened())
                self._held = held.pop_all()
        except OSError as error:
            raise write_error(error, self._path) from error
        return self

    def _opened(self) -> BinaryIO:
        """The file to write to, behind what was kept where that is of the same."""
        written, kept = self._folder / WRITTEN, self._folder / REACHED
        found = read_reached(kept, self._collected) if kept.exists() and written.exists() else None
        if found is not None:
            self.reached, self._done = found
            file: BinaryIO = written.open("r+b")
            file.truncate(len(self._head) + sum(tensor_bytes(*entry) for _, entry in self._tensors[: self._done]))
            file.seek(0, os.SEEK_END)
            return file
        kept.unlink(missing_ok=True)
        file = written.open("wb")
        file.write(self._head)
        return file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._held:
                if kind is None:
                    missing = len(self._tensors) - self._done
                    assert not missing, f"{missing} tensors are missing"
                    self._sync()
                    (self._folder / WRITTEN).replace(self._path)
                    sync_folder(self._path.parent)
        except OSError as problem:
            raise write_error(problem, self._path) from problem


def refuse_existing(path: Path) -> None:
    """Raise UsageError where something has the name of what is to be written."""
    if path.exists():
        if partial_folder(path).is_dir():
            _tidy(partial_folder(path))  # a kill after the naming has left it
        raise UsageError(f"{path} already exists", hint="delete it, or choose another --out")


def _tidy(folder: Path) -> None:
    """Delete our files in a folder where there is nothing to go on with, and the folder, if that was all."""
    if (folder / WRITTEN).exists() and (folder / REACHED).exists():
        return
    for name in (WRITTEN, REACHED, REACHED + TEMPORARY, LOCK):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
