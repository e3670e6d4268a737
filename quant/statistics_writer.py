"""Writing statistics: an expert layer at a time, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from quant.plan import Plan
from quant.statistics_layout import header, mean_name, squares_name, tensors, tokens_name
from quant.writer import FileWriter

_LARGEST = np.float32(65504)  # of fp16


class StatisticsWriter:
    """Takes what a model's matrices have read in the order of the file; nothing is there until all of it is."""

    def __init__(self, path: Path, plan: Plan, facts: dict[str, str]) -> None:
        """Begin; `facts` are the metadata, see `statistics_layout`. Raises ResourceError where it can't be written."""
        self._left = list(tensors(plan).items())
        self._file = FileWriter(path)
        self._head = header(plan, facts)

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
        while self._left:
            name, (_, shape) = self._left[0]
            self._put(name, means.get(name, np.zeros(shape)))

    def _put(self, name: str, values: np.ndarray) -> None:
        expected, (dtype, shape) = self._left.pop(0)
        assert (name, values.shape) == (expected, shape), f"{expected} comes before {name}"
        kind = {"I64": "<i8", "F32": "<f4", "F16": "<f2"}[dtype]
        self._file.write(np.ascontiguousarray(values, kind).data)

    def __enter__(self) -> StatisticsWriter:
        self._file.__enter__()
        self._file.write(self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._left:
            kind = AssertionError  # what lacks tensors is not kept either
        self._file.__exit__(kind, error, trace)
        assert error is not None or kind is None, f"{len(self._left)} tensors are missing"
