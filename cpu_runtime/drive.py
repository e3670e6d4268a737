"""How fast the drive that models are on brings in records of experts, measured through the store's own reads."""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.drive import open_copy
from cpu_runtime.experts.reads import Read, open_reads
from quant.container import ExpertRecords, QuantizedModel
from quant.errors import ResourceError

_RECORD, _RECORDS = 4 << 20, 64  # of a file made for the purpose: as large as an expert, and more than are read twice
_FEW, _MANY = 2, 16  # reads begun at once: what one layer may want for a token, and what keeps a drive busy
_ROUNDS = 9


@dataclass(frozen=True)
class Drive:
    """Reads begun together take `latency` seconds and their bytes at `rate` bytes a second."""

    rate: float
    latency: float

    def seconds(self, size: float) -> float:
        """What it takes to read so many bytes, in records begun together."""
        return self.latency + size / self.rate if size > 0 else 0.0


def of_model(model: QuantizedModel) -> Drive:
    """That of the drive a model with experts is on, from random records of it; raises as `open_copy` does."""
    return _measured([model.expert_layer(layer) for layer in model.expert_layers])


def of_folder(folder: Path) -> Drive:
    """That of a folder's drive, from a file of 256 MiB that is deleted again; raises ResourceError where that fails."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed-") as file:
            piece = secrets.token_bytes(_RECORD)
            for _ in range(_RECORDS):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
                records = np.frombuffer(mapping, np.uint8).reshape(_RECORDS, _RECORD)
                layer = ExpertRecords(0, records, {}, mapping, Path(file.name), 0, [0] * _RECORDS)
                found = _measured([layer])
                del records, layer
                return found
    except OSError as error:
        raise ResourceError(
            f"can't measure the disk at {folder}: {error.strerror}", hint="free 260 MB there, or set MOE_HOME"
        ) from error


def _measured(layers: Sequence[ExpertRecords]) -> Drive:
    """From medians of few and of many random records at once."""
    size = max(layer.records.shape[1] for layer in layers)
    arena = Arena(_MANY, size)
    files = open_copy(layers, arena).files
    none = {layer.layer: np.zeros((1, len(layer.records)), bool) for layer in layers}
    reads, random = open_reads([files], arena, none), np.random.default_rng()
    everything: list[tuple[int, int]] = [
        (layer.layer, expert) for layer in layers for expert in range(len(layer.records))
    ]

    def took(count: int) -> float:
        drawn = random.choice(len(everything), count, replace=len(everything) < count).tolist()
        chosen = [Read(layer, expert, slot) for slot, (layer, expert) in enumerate(everything[n] for n in drawn)]
        start, left = perf_counter(), count
        reads.start(chosen)
        while left:
            left -= len(reads.ended(wait=True))
        return perf_counter() - start

    try:
        rounds = [(took(_FEW), took(_MANY)) for _ in range(_ROUNDS)]
    finally:
        reads.close()
        for file in files.values():
            file.close()
    few, many = (median(column) for column in zip(*rounds, strict=True))
    # Of the time for one more, what does not grow with bytes is latency.
    rate = min((_MANY - _FEW) * size / max(many - few, 1e-9), 2 * _MANY * size / many)
    return Drive(rate, max(0.0, few - _FEW * size / rate))
