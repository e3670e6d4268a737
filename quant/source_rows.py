"""The rows of one matrix as it will be stored, wherever in the checkpoint each of them lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quant.checkpoint import Checkpoint
from quant.errors import CheckpointError
from quant.formats import Encodable, Format, tiles
from quant.plan import Dense, HeadSlice, Part

DAMAGED = "the source is damaged: pull it again; what was quantized of it so far is kept"


@dataclass(frozen=True)
class SourceRows:
    """A matrix of `shape`: the slices of the heads of tensor `name`, or of one expert's matrix in it."""

    checkpoint: Checkpoint
    name: str
    shape: tuple[int, int]
    slices: HeadSlice
    expert: int | None = None

    def pack(
        self, form: Format, start: int, stop: int, importance: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(rows start..stop in tiles, their squared error and squared weights): [ceil(n / 16), tile_bytes] u8, [2] f64.

        `importance` is that of the inputs, see `Encodable.pack_measured`. The sums of what is copied are 0. Raises
        CheckpointError where a weight or a scale is not finite, or too large for the format, saying how many of the
        matrix are not finite.
        """
        try:
            if not isinstance(form, Encodable):
                return self._copied(form, start, stop), np.zeros(2)
            packed, sums = form.pack_measured(self.decoded(start, stop), importance)
            return packed, sums.sum(0)
        except ValueError as error:
            fault = self.checkpoint.not_finite(self.name, self.expert)
            raise CheckpointError(str(fault or f"tensor {self.name!r}: {error}"), hint=DAMAGED) from error

    def decoded(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop: -> [n, C] f32."""
        out = np.empty((stop - start, self.shape[1]), np.float32)
        done = 0
        for head, low, high in self._of_heads(start, stop):
            part = out[done : done + high - low]
            if self.slices.transposed:
                wide = self.slices.stop - self.slices.start
                part[:] = self.checkpoint.rows(self.name, head, head + wide, self.expert).T[low:high]
            else:
                self.checkpoint.rows(self.name, head + low, head + high, self.expert, part)
            done += len(part)
        return out

    def _copied(self, form: Format, start: int, stop: int) -> np.ndarray:
        from quant import pack

        pieces = [
            self.checkpoint.int4_rows(self.name, h + low, h + high) for h, low, high in self._of_heads(start, stop)
        ]
        codes, scales = (np.concatenate(piece) if len(piece) > 1 else piece[0] for piece in zip(*pieces, strict=True))
        out = np.zeros((tiles(stop - start), form.tile_bytes(self.shape[1])), np.uint8)
        if not pack.pack_k4(codes, scales, out):
            raise ValueError(f"a scale is not finite or too large for {form.name}")
        return out

    def _of_heads(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(source row of its slice, first and last row within the slice) of each head that rows start..stop touch."""
        tall = self.shape[0] // self.slices.heads
        for head in range(start // tall, -(-stop // tall)):
            yield (
                head * self.slices.rows + self.slices.start,
                max(start - head * tall, 0),
                min(stop - head * tall, tall),
            )


def dense_rows(checkpoint: Checkpoint, dense: Dense) -> SourceRows:
    """The rows of a dense matrix."""
    rows, cols = dense.shape
    return SourceRows(checkpoint, dense.source, (rows, cols), dense.heads or HeadSlice(1, rows, 0, rows))


def part_rows(checkpoint: Checkpoint, part: Part, expert: int) -> SourceRows:
    """The rows of an expert's part."""
    start, stop = part.rows or (0, part.shape[0])
    slices = HeadSlice(1, stop, start, stop)
    return SourceRows(checkpoint, part.tensor(expert), part.shape, slices, expert if part.fused else None)
