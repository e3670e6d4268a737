"""Linear layers over tiled matrices, and the activations they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.lib.stride_tricks import as_strided

from cpu_runtime.kernels.activations import GROUP, quantize_rows
from cpu_runtime.kernels.experts import grouped_matmul
from cpu_runtime.kernels.matmul import matmul, read_rows
from cpu_runtime.kernels.norm import rms_norm_quantized
from cpu_runtime.kernels.one_token import norm_and_quantize_token, quantize_token
from cpu_runtime.kernels.packs import PACK, WIDE_PACK, pack_rows, pack_wide_rows
from cpu_runtime.kernels.tile import READS_WIDE
from cpu_runtime.kernels.tile_single import READS_INT8
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.workspace import NEW, Workspace
from quant.formats import BLOCK, ROWS, Matrix

Int8 = tuple[np.ndarray, np.ndarray, np.ndarray]  # q, scale, sums
# What formats are handed in place of activations that they do not read, only typed.
_NO_PACKS = np.zeros((0, 64), np.int8)
_NO_INT8 = np.zeros((1, 64), np.int8), np.zeros((1, 2), np.float32), np.zeros((1, 4, 2), np.int16)

_PASSING = 32  # rows, each in a tile of 16 that is read whole


def _int8_of(shape: tuple[int, ...], workspace: Workspace) -> Int8:
    """Room for quantized rows."""
    (rows, cols), empty = shape, workspace.empty
    return empty((rows, cols), np.int8), empty((rows, cols // 32)), empty((rows, cols // 16, 2), np.int16)


def padded(cols: int) -> int:
    """`cols` rounded up to whole blocks."""
    return -(-cols // BLOCK) * BLOCK


class Activations:
    """T rows of activations that any number of matrices read; quantized to int8 at most once.

    Shapes: x [T, Cp] f32, zero beyond the true width · q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16, 2] i16
            packs and wide packs as in `packs.py`: the same for formats that several tokens meet as bytes, or as int16
    Arrays are taken from the `workspace`, also those of whatever reads them.
    """

    __slots__ = ("_int8", "_packs", "_wide_packs", "workspace", "x")

    def __init__(self, x: np.ndarray, workspace: Workspace = NEW) -> None:
        rows, cols = x.shape
        if cols % BLOCK:
            wide = workspace.empty((rows, padded(cols)))
            wide[:, :cols] = x
            wide[:, cols:] = 0
            x = wide
        self.x = x
        self.workspace = workspace
        self._int8: Int8 | None = None
        self._packs: np.ndarray | None = None
        self._wide_packs: np.ndarray | None = None

    @classmethod
    def normed(cls, norm: RMSNorm, x: np.ndarray, workspace: Workspace = NEW) -> Activations:
        """norm(x), quantized in the same pass: x [T, D] f32."""
        made = cls.room(x.shape, workspace)
        made.norm(norm, x, None)
        return made

    @classmethod
    def room(cls, shape: tuple[int, ...], workspace: Workspace = NEW) -> Activations:
        """Rows for `norm` to fill, [T, D]."""
        rows, cols = shape
        made = cls(workspace.empty((rows, padded(cols))), workspace)
        made._int8 = _int8_of(made.x.shape, workspace)
        return made

    def norm(self, norm: RMSNorm, x: np.ndarray, added: np.ndarray | None) -> None:
        """Become norm(x), quantized in the same pass; x += added before that: x, added [T, D] f32."""
        added = x[:0] if added is None else added
        norm_and_quantize = norm_and_quantize_token if len(x) == 1 else rms_norm_quantized
        norm_and_quantize(x, added, norm.weight, norm.eps, self.x, *self.int8)
        self._packs = self._wide_packs = None

    @property
    def int8(self) -> Int8:
        """(q, scale, sums), made on first use."""
        if self._int8 is None:
            self._int8 = _int8_of(self.x.shape, self.workspace)
            if len(self.x) == 1:
                quantize_token(self.x, *self._int8)
            else:
                quantize_rows(self.x, *self._int8)
        return self._int8

    @property
    def packs(self) -> np.ndarray:
        """For panels of bytes, made on first use."""
        if self._packs is None:
            self._packs = self.workspace.empty((len(self.x), self.x.shape[1] // GROUP * PACK), np.int8)
            pack_rows(*self.int8, self._packs)
        return self._packs

    @property
    def wide_packs(self) -> np.ndarray:
        """For wide panels, made on first use."""
        if self._wide_packs is None:
            self._wide_packs = self.workspace.empty((len(self.x), self.x.shape[1] // GROUP * WIDE_PACK), np.int8)
            pack_wide_rows(*self.int8[:2], self._wide_packs)
        return self._wide_packs

    def for_format(
        self, format_id: int, *, together: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x, q, packs, scale, sums) as kernels take them, integers only for the formats that read them.

        So many rows meet a matrix `together`: all, unless the caller knows of fewer. One alone is not read from packs.
        """
        reads_int8, packs = format_id in READS_INT8, _NO_PACKS
        q, scale, sums = self.int8 if reads_int8 else _NO_INT8
        if reads_int8 and (together or len(self.x)) > 1:
            packs = self.wide_packs if format_id in READS_WIDE else self.packs
        return self.x, q, packs, scale, sums


class Linear:
    """y = x @ W.T for one matrix of the model."""

    __slots__ = ("matrix",)

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, rows] f32."""
        m = self.matrix
        out = x.workspace.empty((x.x.shape[0], ROWS * len(m.tiles)))
        matmul(m.format.id, m.tiles, *x.for_format(m.format.id), out)
        return out if out.shape[1] == m.rows else np.ascontiguousarray(out[:, : m.rows])


class SideBySide:
    """Linear layers over the same input; for one token a single product, where their matrices lie end to end.

    Several of them would each wait for the threads to begin and to end. Layers that do more than multiply, and matrices
    of different formats or in different places, are taken one by one.
    """

    __slots__ = ("_joined", "_linears", "_places")

    def __init__(self, *linears: Linear) -> None:
        matrices = [linear.matrix for linear in linears] if _plain(linears) else []
        joined = end_to_end(matrices) if matrices else None
        self._linears = linears
        self._joined = None if joined is None else Linear(joined)
        starts = accumulate((ROWS * len(matrix.tiles) for matrix in matrices), initial=0)
        self._places = [
            (slice(None), slice(at, at + matrix.rows)) for matrix, at in zip(matrices, starts, strict=False)
        ]

    def __call__(self, x: Activations) -> list[np.ndarray]:
        """Shapes: x of T rows -> what each layer answers, [T, rows] f32."""
        if self._joined is None or len(x.x) > 1:
            return [linear(x) for linear in self._linears]
        out = self._joined(x)
        return [out[place] for place in self._places]


def _plain(linears: Sequence[Linear]) -> bool:
    return all(type(linear) is Linear for linear in linears)


class HeadwiseLinear:
    """y[t, h] = W_h @ x[t, h] for a matrix whose heads lie one after another, each a multiple of 16 rows."""

    __slots__ = ("_alone", "heads", "matrix")

    def __init__(self, matrix: Matrix, heads: int) -> None:
        assert matrix.rows % (ROWS * heads) == 0  # no tile holds two heads
        self.matrix = matrix
        self.heads = heads
        self._alone = self._pairs(1)

    def __call__(self, x: np.ndarray, workspace: Workspace = NEW) -> np.ndarray:
        """Shapes: x [T, H, n] f32 -> [T, H, rows of a head] f32."""
        tokens, heads, size = x.shape
        m, rows = self.matrix, self.matrix.rows // heads
        arrays = Activations(x.reshape(tokens * heads, size), workspace).for_format(m.format.id, together=tokens)
        slots, starts, by_head = self._alone if tokens == 1 else self._pairs(tokens)
        out = workspace.empty((heads * tokens, rows))
        grouped_matmul(m.format.id, m.tiles.reshape(heads, -1), 0, rows, slots, starts, *arrays, by_head, out)
        return np.ascontiguousarray(out.reshape(heads, tokens, rows).swapaxes(0, 1))

    def _pairs(self, tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(each head's place, where its pairs with tokens begin, the row of each pair), all i32."""
        by_token = np.arange(tokens * self.heads, dtype=np.int32).reshape(tokens, self.heads)
        starts = np.arange(self.heads + 1, dtype=np.int32) * np.int32(tokens)
        return np.arange(self.heads, dtype=np.int32), starts, by_token.T.ravel()


def row_range(matrix: Matrix, first: int, last: int) -> Matrix:
    """Rows first .. last - 1 of a matrix without a copy; `first` is a multiple of 16, `last` too or the end."""
    return Matrix(matrix.format, last - first, matrix.cols, matrix.tiles[first // ROWS : -(-last // ROWS)])


def end_to_end(matrices: Sequence[Matrix]) -> Matrix | None:
    """Matrices that follow one another in memory as a single one, of whole tiles, without a copy; None if they don't.

    It is only as long there as they are.
    """
    first, at = matrices[0], matrices[0].tiles.ctypes.data
    for matrix in matrices:
        if (matrix.format, matrix.cols, matrix.tiles.ctypes.data) != (first.format, first.cols, at):
            return None
        at += matrix.tiles.nbytes
    count = sum(len(matrix.tiles) for matrix in matrices)
    tiles = as_strided(first.tiles, (count, first.tiles.shape[1]), writeable=False)
    return Matrix(first.format, ROWS * count, first.cols, tiles)


class Embedding:
    """Token ids to rows of the embedding matrix."""

    __slots__ = ("matrix",)

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def __call__(self, ids: np.ndarray, workspace: Workspace = NEW) -> np.ndarray:
        """Shapes: ids [T] i64 -> [T, D] f32."""
        m = self.matrix
        out = workspace.empty((ids.size, padded(m.cols)))
        read_rows(m.format.id, m.tiles, ids, out)
        return np.ascontiguousarray(out[:, : m.cols])


class PassingEmbedding(Embedding):
    """The same, over a mapping that is let go of once rows are copied: a long text would bring in all of it."""

    __slots__ = ("_let_go",)

    def __init__(self, matrix: Matrix, let_go: Callable[[], None]) -> None:
        super().__init__(matrix)
        self._let_go = let_go

    def __call__(self, ids: np.ndarray, workspace: Workspace = NEW) -> np.ndarray:
        """Shapes: ids [T] i64 -> [T, D] f32."""
        out = workspace.empty((ids.size, self.matrix.cols))
        for start in range(0, ids.size, _PASSING):
            out[start : start + _PASSING] = super().__call__(ids[start : start + _PASSING], workspace)
            self._let_go()
        return out
