"""How a drive likes to be read: directly, or through the operating system's cache."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from math import inf
from time import perf_counter
from typing import NamedTuple

import numpy as np

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.reads import READERS
from cpu_runtime.experts.record_file import RecordFile
from quant.container import ExpertRecords
from quant.errors import CheckpointError
from quant.layout import PAGE

_SAMPLE = 32 << 20  # bytes read in either way
_LARGE_PAGE = 2 << 20  # bytes; as large as pages of files become
_MARGIN = 1.25  # direct reads leave memory and processors alone: buffered ones must be faster by this


class Copy(NamedTuple):
    """Every layer's file on one drive, and the bytes a second that it was read at when it was opened."""

    files: dict[int, RecordFile]
    rate: float


def open_copy(layers: Iterable[ExpertRecords], arena: Arena) -> Copy:
    """Every layer's file, opened for the kind of reading that its drive is found to be better at.

    The arena is scribbled over. Raises CheckpointError where a file can't be read in either way.
    """
    layers = list(layers)
    buffered = _opened_buffered(layers)
    try:
        direct = _open(layers, direct=True)
    except OSError:
        direct = {}
    with ThreadPoolExecutor(READERS, thread_name_prefix="moe-read") as pool:
        better, rate = _compared(direct, buffered, pool, arena)
    chosen, other = (direct, buffered) if better else (buffered, direct)
    for file in other.values():
        file.close()
    return Copy(chosen, rate)


def _open(layers: Sequence[ExpertRecords], *, direct: bool) -> dict[int, RecordFile]:
    files: dict[int, RecordFile] = {}
    try:
        for layer in layers:
            files[layer.layer] = RecordFile(layer, direct=direct)
    except OSError:
        for file in files.values():
            file.close()
        raise
    return files


def _opened_buffered(layers: Sequence[ExpertRecords]) -> dict[int, RecordFile]:
    try:
        return _open(layers, direct=False)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: {error.strerror or error}") from error


def _compared(
    direct: dict[int, RecordFile], buffered: dict[int, RecordFile], pool: Executor, arena: Arena
) -> tuple[bool, float]:
    """(whether direct reads are better, bytes a second of the better ones): other records either way, over the model.

    Where direct reads were refused, there are no such files.
    """
    experts = [(n, e) for n, file in buffered.items() for e in range(file.layer.records.shape[0])]
    size = max(file.record_bytes for file in buffered.values())
    count = max(1, min(_SAMPLE // size, len(experts) // 2, len(arena.records)))
    sample = [experts[i] for i in np.linspace(0, len(experts) - 1, 2 * count).astype(int)]
    for slot in range(count):
        arena.slot(slot, size)[::PAGE] = 0  # memory taken while the first of the two is timed would count against it
    try:
        fast = _seconds(direct, sample[::2], pool, arena) if direct else inf
    except CheckpointError:  # some file systems refuse at the first read; a damaged one will refuse buffered, too
        fast = inf
    for number, expert in sample[1::2]:
        _forget(buffered[number], expert)
    slow = _seconds(buffered, sample[1::2], pool, arena)
    better = fast <= _MARGIN * slow
    return better, count * size / (fast if better else slow)


def _seconds(files: dict[int, RecordFile], sample: list[tuple[int, int]], pool: Executor, arena: Arena) -> float:
    def read(slot: int) -> None:
        number, expert = sample[slot]
        files[number].read(expert, arena.slot(slot, files[number].record_bytes))

    start = perf_counter()
    list(pool.map(read, range(len(sample))))
    return perf_counter() - start


def _forget(file: RecordFile, expert: int) -> None:
    """Take a record out of the operating system's cache, so that reading it tells how fast the drive is."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(file.layer.path, os.O_RDONLY)
        try:
            at = file.layer.offset + expert * file.record_bytes
            # Only pages that are in the range as a whole are let go of, and a file's may be large.
            first = at // _LARGE_PAGE * _LARGE_PAGE
            last = -(-(at + file.record_bytes) // _LARGE_PAGE) * _LARGE_PAGE
            os.posix_fadvise(descriptor, first, last - first, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
