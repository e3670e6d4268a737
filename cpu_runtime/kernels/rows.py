"""Float32 products of a few rows with a tile of cached rows: the inner loops of attention.

Rows are padded with zeros to whole pairs of vectors. Four of them are worked on at a time, and each sum is added in one
order whatever stands beside it.

Shapes: queries, weights, scores, mixed [a multiple of ROW_BLOCK, ..] f32 · tile [TILE, padded width] f32
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.vectors import fma, load_f16, load_f32, splat_f32, store_f32, sum_of
from quant.jit import kernel

TILE = 32  # cached rows widened to float32 at once: 32 KB of rows of 256 numbers
ROW_BLOCK = 4  # rows that share the loads of a tile
_PAIR = 2 * LANES
_ZERO = np.float32(0)
# A float16 moved to a float32's place is 2**112 too small: the exponents' biases are 15 and 127.
_SIGN, _MAGNITUDE, _REBIAS = np.uint32(0x8000), np.uint32(0x7FFF), np.float32(2.0**112)
_SIGN_SHIFT, _SHIFT = np.uint32(16), np.uint32(13)


@kernel
def padded(width):
    """`width` rounded up to whole pairs of vectors."""
    return (width + _PAIR - 1) // _PAIR * _PAIR


@kernel
def whole_blocks(rows):
    """`rows` rounded up to a multiple of ROW_BLOCK."""
    return (rows + ROW_BLOCK - 1) // ROW_BLOCK * ROW_BLOCK


@kernel
def widen(rows, width, tile):
    """tile = the first `width` numbers of each row as float32, zeros around them.

    Shapes: rows [n <= TILE, at least width] f32, or u16 holding finite float16
    """
    count, stride = rows.shape
    whole = width // LANES * LANES
    for r in range(count):
        for i in range(0, whole, LANES):
            at = r * stride + i
            wide = load_f16(rows, at, LANES) if rows.itemsize == 2 else load_f32(rows, at, LANES)
            store_f32(tile, r * tile.shape[1] + i, wide)
        for i in range(whole, width):
            tile[r, i] = _as_float32(rows[r, i])
        tile[r, width:] = _ZERO
    tile[count:] = _ZERO


@kernel
def _as_float32(x):
    """A float32 itself; a finite float16 from its 16 bits."""
    if isinstance(x, np.float32):
        return x
    bits = np.uint32(x)
    magnitude = np.float32(np.uint32((bits & _MAGNITUDE) << _SHIFT).view(np.float32) * _REBIAS)
    return np.uint32(magnitude.view(np.uint32) | ((bits & _SIGN) << _SIGN_SHIFT)).view(np.float32)


@kernel
def dot_rows(queries, tile, scores, column):
    """scores[r, column + p] = queries[r] . tile[p], for all rows and the TILE positions p."""
    width = tile.shape[1]
    for r in range(0, queries.shape[0], ROW_BLOCK):
        q0, q1, q2, q3 = r * width, (r + 1) * width, (r + 2) * width, (r + 3) * width
        for p in range(0, TILE, 2):
            x, y = p * width, (p + 1) * width
            x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = splat_f32(_ZERO, LANES)
            for i in range(0, width, LANES):
                u, v = load_f32(tile, x + i, LANES), load_f32(tile, y + i, LANES)
                q = load_f32(queries, q0 + i, LANES)
                x0, y0 = fma(q, u, x0), fma(q, v, y0)
                q = load_f32(queries, q1 + i, LANES)
                x1, y1 = fma(q, u, x1), fma(q, v, y1)
                q = load_f32(queries, q2 + i, LANES)
                x2, y2 = fma(q, u, x2), fma(q, v, y2)
                q = load_f32(queries, q3 + i, LANES)
                x3, y3 = fma(q, u, x3), fma(q, v, y3)
            at = column + p
            scores[r, at], scores[r, at + 1] = sum_of(x0), sum_of(y0)
            scores[r + 1, at], scores[r + 1, at + 1] = sum_of(x1), sum_of(y1)
            scores[r + 2, at], scores[r + 2, at + 1] = sum_of(x2), sum_of(y2)
            scores[r + 3, at], scores[r + 3, at + 1] = sum_of(x3), sum_of(y3)


@kernel
def mix_rows(weights, column, tile, mixed):
    """mixed[r] += sum over the TILE positions p of weights[r, column + p] * tile[p]."""
    width = tile.shape[1]
    for r in range(0, mixed.shape[0], ROW_BLOCK):
        for i in range(0, width, _PAIR):
            a, b, c, d = r * width + i, (r + 1) * width + i, (r + 2) * width + i, (r + 3) * width + i
            a0, a1 = load_f32(mixed, a, LANES), load_f32(mixed, a + LANES, LANES)
            b0, b1 = load_f32(mixed, b, LANES), load_f32(mixed, b + LANES, LANES)
            c0, c1 = load_f32(mixed, c, LANES), load_f32(mixed, c + LANES, LANES)
            d0, d1 = load_f32(mixed, d, LANES), load_f32(mixed, d + LANES, LANES)
            for p in range(TILE):
                u, v = load_f32(tile, p * width + i, LANES), load_f32(tile, p * width + i + LANES, LANES)
                w = splat_f32(weights[r, column + p], LANES)
                a0, a1 = fma(w, u, a0), fma(w, v, a1)
                w = splat_f32(weights[r + 1, column + p], LANES)
                b0, b1 = fma(w, u, b0), fma(w, v, b1)
                w = splat_f32(weights[r + 2, column + p], LANES)
                c0, c1 = fma(w, u, c0), fma(w, v, c1)
                w = splat_f32(weights[r + 3, column + p], LANES)
                d0, d1 = fma(w, u, d0), fma(w, v, d1)
            store_f32(mixed, a, a0)
            store_f32(mixed, a + LANES, a1)
            store_f32(mixed, b, b0)
            store_f32(mixed, b + LANES, b1)
            store_f32(mixed, c, c0)
            store_f32(mixed, c + LANES, c1)
            store_f32(mixed, d, d0)
            store_f32(mixed, d + LANES, d1)
