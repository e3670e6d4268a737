"""The bytes of one matrix or vector as they are stored, made from its source a bounded number of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from quant import not_finite
from quant.checkpoint import Checkpoint
from quant.errors import CheckpointError
from quant.formats import ROWS, Format
from quant.plan import Dense
from quant.recipe import Recipe
from quant.report import Sums
from quant.source_rows import DAMAGED, SourceRows

CHUNK = 64 << 20  # bytes of float32 rows held at a time


def packed_rows(rows: SourceRows, form: Format, name: str, sums: Sums, recipe: Recipe) -> Iterator[np.ndarray]:
    """Packed tiles of the whole matrix `name`, a bounded number of rows at a time; its errors are added to `sums`.

    The recipe may have statistics of its inputs.
    """
    n_rows, cols = rows.shape
    importance = recipe.importance(name)
    step = max(ROWS, CHUNK // (4 * cols) // ROWS * ROWS)
    for start in range(0, n_rows, step):
        packed, (error, squares) = rows.pack(form, start, min(start + step, n_rows), importance)
        sums.add(name, float(error), float(squares))
        yield packed


def vector(checkpoint: Checkpoint, dense: Dense) -> memoryview:
    """A dense vector's bytes, float32; raises CheckpointError where a value is not finite."""
    values = checkpoint.values(dense.source)
    fault = not_finite.find(dense.source, "value", values.reshape(1, -1), 0, None)
    if fault:
        raise CheckpointError(str(fault), hint=DAMAGED)
    return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
