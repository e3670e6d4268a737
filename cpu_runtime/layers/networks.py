"""Gated feed-forward networks as one call takes them: where gate, up and down lie, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cpu_runtime.kernels.feed_forward import Triple, feed_forward
from cpu_runtime.layers.linear import Activations
from quant.formats import ROWS, Format, tiles
from quant.layout import RecordPart

_MATRICES = ("gate", "up", "down")


@dataclass(frozen=True)
class Networks:
    """Networks alike in shape and format; each triple is of gate, up and down.

    `offsets` say where in its row of bytes a network's matrix begins, `rows` how many numbers an answer has.
    """

    ids: Triple
    offsets: Triple
    tile_bytes: Triple
    n_tiles: Triple
    rows: int

    @classmethod
    def of_records(cls, parts: Mapping[str, RecordPart]) -> Networks:
        """Experts whose three matrices share a record."""
        return cls.of([(p.format, p.rows, p.cols, p.offset) for p in (parts[name] for name in _MATRICES)])

    @classmethod
    def of(cls, matrices: list[tuple[Format, int, int, int]]) -> Networks:
        """(format, rows, columns, offset) of gate, up and down."""
        ids, offsets, sizes, counts = zip(
            *[(form.id, offset, form.tile_bytes(cols), tiles(rows)) for form, rows, cols, offset in matrices],
            strict=True,
        )
        return cls(ids, offsets, sizes, counts, rows=matrices[2][1])

    @cached_property
    def width(self) -> int:
        """Numbers of an answer, whole tiles of them."""
        return ROWS * self.n_tiles[2]

    def answer(
        self,
        weights: tuple[np.ndarray, np.ndarray, np.ndarray],
        slots: np.ndarray,
        members: np.ndarray,
        x: Activations,
        out: np.ndarray,
    ) -> None:
        """out[members[g]] = what the network in row slots[g] of each of the weights answers to a single token.

        Shapes: weights [n, bytes] u8 · slots, members [G] i32 · x of one row · out [more than any member, width] f32
        """
        rows, q, _, scale, sums = x.for_format(self._reads)
        lies = self.ids, self.offsets, self.tile_bytes, self.n_tiles
        feed_forward(*lies, *weights, slots, members, rows, q, scale, sums, out, x.workspace)

    @cached_property
    def _reads(self) -> int:
        return max(self.ids[:2])  # formats of integers have the higher ids
