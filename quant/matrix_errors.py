"""The error that each format makes in each matrix, before anything is converted: measured on some rows, or known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from quant.checkpoint import Checkpoint
from quant.formats import ROWS, Format, tiles
from quant.plan import Dense, ExpertLayer, Part, Plan
from quant.report import expert_matrix
from quant.source_rows import SourceRows, dense_rows, part_rows
from quant.statistics import Statistics

# Squared relative errors on Gaussian rows: quant/FORMAT.md has them in dB.
GAUSSIAN = {
    name: 10 ** (-decibels / 10)
    for name, decibels in {"q3": 18.6, "q4c": 23.2, "q4": 24.8, "q5": 30.4, "q6": 36.6, "q8": 46.1}.items()
}
ROUNDED = ("attention", "shared", "mlp", "embedding", "head")  # dense roles
_TILES = 4  # of a dense matrix
_EXPERTS = 8  # of a layer, a tile of each


class Kind(NamedTuple):
    """A dense matrix by its name, or one part of all experts of a layer."""

    name: str
    part: str = ""


Errors = Callable[[Kind, Format], float]  # squared error over squared weights, by importance where that is known


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

    With statistics, errors and weights count by the importance of their inputs: of all that a matrix adds to its
    outputs, the share that is wrong. `matrices` is how many may be asked for, `measured` how many have been.
    """

    def __init__(self, checkpoint: Checkpoint, plan: Plan, statistics: Statistics | None = None) -> None:
        self._statistics = statistics
        self._tiles = {Kind(d.name): _of_dense(checkpoint, d) for d in plan.dense if is_rounded(d)}
        for layer in plan.experts:
            for part in layer.parts:
                self._tiles[expert_kind(layer, part)] = _of_experts(checkpoint, layer, part)
        self._errors: dict[Kind, dict[str, float]] = {}

    @property
    def matrices(self) -> int:
        """Dense matrices that may be rounded, and parts of the experts of a layer."""
        return len(self._tiles)

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
            error, squares = np.sum([tile.measured(form, self._statistics) for tile in self._tiles[kind]], axis=0)
            errors[form.name] = float(error / squares) if squares else 0.0
        return errors[form.name]


@dataclass(frozen=True)
class _Tile:
    """Up to 16 rows of the matrix `name`."""

    name: str
    rows: SourceRows
    start: int

    def measured(self, form: Format, statistics: Statistics | None) -> np.ndarray:
        """Its squared error and squared weights, summed up by importance: [2] f64."""
        stop = min(self.start + ROWS, self.rows.shape[0])
        importance = None if statistics is None else statistics.importance(self.name)
        packed, sums = self.rows.pack(form, self.start, stop, importance)
        if importance is None:
            return sums
        weights = self.rows.decoded(self.start, stop)
        both = np.stack([form.unpack(packed, *weights.shape) - weights, weights]).astype(np.float64)
        return (both**2).sum(1) @ importance


def _of_dense(checkpoint: Checkpoint, dense: Dense) -> list[_Tile]:
    """Tiles spread over a matrix."""
    rows = dense_rows(checkpoint, dense)
    some = min(_TILES, tiles(rows.shape[0]))
    return [_tile(dense.name, rows, n, some) for n in range(some)]


def _of_experts(checkpoint: Checkpoint, layer: ExpertLayer, part: Part) -> list[_Tile]:
    """A tile each of experts spread over a layer, each from another place."""
    some, found = min(_EXPERTS, layer.n_experts), []
    for n in range(some):
        expert = _middle(n, some, layer.n_experts)
        rows = part_rows(checkpoint, part, expert)
        found.append(_tile(expert_matrix(layer.layer, expert, part.name), rows, n, some))
    return found


def _tile(name: str, rows: SourceRows, n: int, count: int) -> _Tile:
    """The n-th of `count` tiles that are spread over a matrix."""
    return _Tile(name, rows, _middle(n, count, tiles(rows.shape[0])) * ROWS)


def _middle(n: int, count: int, total: int) -> int:
    """The place in the middle of the n-th of `count` equal parts of `total` places."""
    return (2 * n + 1) * total // (2 * count)
