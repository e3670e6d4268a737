"""Strips of 32 inputs, which lie row by row, as quads: 4 inputs of each row, as vectors of int32 lanes want them.

strips = strips_of(form)
a, b, c, d = strips.pairs(w, at)    of the strip at byte `at`, 8 rows: rows 0 and 4, 1 and 5, 2 and 6, 3 and 7
quads(a, b, c, d)                   of such pairs: quad j has the bytes 4 j .. 4 j + 3 of each row
strips.all_quads(w, at)             of all 16 rows

Where 6 of each 8 rows are stored (q3), a nibble's bit 3 is noise.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from cpu_runtime.kernels.integers import spare_codes
from cpu_runtime.kernels.lowering import I32, constant, join
from cpu_runtime.kernels.vectors import Vector, length, load_i8, operation, typed
from quant.formats import STRIP, Coded
from quant.jit import inner

_PAIR = STRIP  # bytes of two rows, a lane of a vector each


def _quad_meaning(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, j: int) -> np.ndarray:
    rows = np.stack((a, b, c, d)).reshape(4, -1, 4, 4)  # row 4 l + v is lane l of vector v
    return rows[:, :, j].swapaxes(0, 1).reshape(-1)


@operation(_quad_meaning)
def _quad(typing_context: Any, a: Any, b: Any, c: Any, d: Any, j: Any) -> Any:
    """Quad j of rows (0, 4, ..), (1, 5, ..), (2, 6, ..), (3, 7, ..): a transposition whose first step two share."""
    half, parity = divmod(length(j), 2)
    n = a.length // 4
    first = [lane + 2 * half + k + other for lane in range(0, n, 4) for k in (0, 1) for other in (0, n)]
    second = [lane + 2 * parity + k + other for lane in range(0, n, 4) for other in (0, n) for k in (0, 1)]

    def build(builder: ir.IRBuilder, *values: ir.Value) -> ir.Value:
        a, b, c, d = (builder.bitcast(v, ir.VectorType(I32, n)) for v in values[:4])
        x = builder.shuffle_vector(a, b, constant(I32, first))
        y = builder.shuffle_vector(c, d, constant(I32, first))
        return builder.bitcast(builder.shuffle_vector(x, y, constant(I32, second)), values[0].type)

    return typed(a, (a, b, c, d, j), build)


@operation(lambda x, y: np.concatenate((x, y)))
def _both(typing_context: Any, x: Any, y: Any) -> Any:
    return typed(Vector(x.element, 2 * x.length), (x, y), lambda b, x, y: join(b, [x, y]))


@inner
def _pairs(w, at):
    a, b = load_i8(w, at, _PAIR), load_i8(w, at + _PAIR, _PAIR)
    return a, b, load_i8(w, at + 2 * _PAIR, _PAIR), load_i8(w, at + 3 * _PAIR, _PAIR)


@inner
def _pairs_of_threes(w, at):
    a, b, c = load_i8(w, at, _PAIR), load_i8(w, at + _PAIR, _PAIR), load_i8(w, at + 2 * _PAIR, _PAIR)
    return a, b, c, spare_codes(a, b, c)


@inner
def quads(a, b, c, d):
    return _quad(a, b, c, d, 0), _quad(a, b, c, d, 1), _quad(a, b, c, d, 2), _quad(a, b, c, d, 3)


@inner
def _all_quads(w, at):
    return quads(*_joined(_pairs(w, at), _pairs(w, at + 4 * _PAIR)))


@inner
def _all_quads_of_threes(w, at):
    return quads(*_joined(_pairs_of_threes(w, at), _pairs_of_threes(w, at + 3 * _PAIR)))


@inner
def _joined(x, y):
    return _both(x[0], y[0]), _both(x[1], y[1]), _both(x[2], y[2]), _both(x[3], y[3])


class Strips(NamedTuple):
    """How a format's strips are read; `eight_bytes` are those of 8 rows."""

    pairs: Any
    all_quads: Any
    eight_bytes: int


def strips_of(form: Coded) -> Strips:
    """The readers of its strips."""
    if form.code_bits == 3:
        return Strips(_pairs_of_threes, _all_quads_of_threes, 3 * _PAIR)
    return Strips(_pairs, _all_quads, 4 * _PAIR)
