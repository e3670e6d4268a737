"""The error that each format makes in each matrix, before anything is converted: measured on some rows, or known."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from quant.checkpoint import Checkpoint
from quant.formats import ROWS, Format
from quant.plan import Dense, ExpertLayer, Part, Plan
from quant.source_rows import SourceRows, dense_rows, part_rows

# Squared relative errors on Gaussian rows: quant/FORMAT.md has them in dB.
GAUSSIAN = {
    name: 10 ** (-decibels / 10)
    for name, decibels in {"q3": 18.7, "q4c": 23.2, "q4": 24.7, "q5": 30.4, "q6": 36.6, "q8": 46.1}.items()
}
ROUNDED = ("attention", "shared", "mlp", "embedding", "head")  # dense roles
_TILES = 4  # of a dense matrix
_EXPERTS = 8  # of a layer, a tile of each


class Kind(NamedTuple):
    """A dense matrix by its name, or one part of all experts of a layer."""

    name: str
    part: str = ""


Errors = Callable[[Kind, Format], float]  # squared error over squared weights


def is_rounded(dense: Dense) -> bool:
    """Whether a dense tensor is one that recipes may round: large, and not what decides on experts."""
    return dense.kind == "matrix" and dense.role in ROUNDED


def known(kind: Kind, form: Format) -> float:
    """What a format does to Gaussian rows, whatever the matrix; 0 for what is stored as it comes."""
    return GAUSSIAN.get(form.name, 0.0)


def expert_kind(layer: ExpertLayer, part: Part) -> Kind:
    """A part of a layer's experts."""
    return Kind(f"layers.{layer.layer}.experts", part.name)


class MeasuredErrors:
    """Errors in a checkpoint that is here, each measured on first use.

    `matrices` is how many may be asked for, `measured` how many have been.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan) -> None:
        self._samples = {Kind(d.name): _tiles(dense_rows(checkpoint, d)) for d in plan.dense if is_rounded(d)}
        for layer in plan.experts:
            count = min(_EXPERTS, layer.n_experts)
            some = [_middle(n, count, layer.n_experts) for n in range(count)]
            for part in layer.parts:
                rows = [part_rows(checkpoint, part, expert) for expert in some]
                self._samples[expert_kind(layer, part)] = [_tile(one, n, count) for n, one in enumerate(rows)]
        self._errors: dict[Kind, dict[str, float]] = {}

    @property
    def matrices(self) -> int:
        """Dense matrices that may be rounded, and parts of the experts of a layer."""
        return len(self._samples)

    @property
    def measured(self) -> int:
        """How many of them have been asked for."""
        return len(self._errors)

    def __call__(self, kind: Kind, form: Format) -> float:
        """Raises CheckpointError where a sampled weight is not finite or does not fit the format."""
        if form.name not in GAUSSIAN:
            return 0.0
        errors = self._errors.setdefault(kind, {})
        if form.name not in errors:
            sums = np.sum([rows.pack(form, start, stop)[1] for rows, start, stop in self._samples[kind]], axis=0)
            errors[form.name] = float(sums[0] / sums[1]) if sums[1] else 0.0
        return errors[form.name]


_Sample = tuple[SourceRows, int, int]


def _tiles(rows: SourceRows) -> list[_Sample]:
    some = min(_TILES, -(-rows.shape[0] // ROWS))
    return [_tile(rows, n, some) for n in range(some)]


def _tile(rows: SourceRows, n: int, count: int) -> _Sample:
    """The n-th of `count` tiles that are spread over a matrix."""
    start = _middle(n, count, -(-rows.shape[0] // ROWS)) * ROWS
    return rows, start, min(start + ROWS, rows.shape[0])


def _middle(n: int, count: int, total: int) -> int:
    """The place in the middle of the n-th of `count` equal parts of `total` places."""
    return (2 * n + 1) * total // (2 * count)
