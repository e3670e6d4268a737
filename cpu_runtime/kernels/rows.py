"""Float32 products of rows with cached rows: the inner loops of attention.

Two forms, which add every sum in the same order, so that they give the same bits whatever stands beside a row:
a few rows read cached rows as they are stored; many rows share a tile of them, widened to float32 once.

Shapes: queries, weights, scores, mixed [a multiple of FEW or MANY, ..] f32 · tile [positions, width] f32
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.pages import PAGE
from cpu_runtime.kernels.reductions import lane, sums_of
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_f32,
    mul,
    prefetch,
    prefetch_all,
    settled,
    splat1,
    splat_f32,
    store_f32,
)
from quant.jit import inner

PAIR, STEP = 2 * LANES, 4 * LANES  # columns that `mix_few` and `mix_tile` work on at once
FEW = 4  # rows that share the loads of cached rows: 8 sums in registers
FEW_ROWS = 16  # at most, that are better served so
MANY = 3  # rows that share the loads of a tile: 12 sums in registers
STRIP = 16 * LANES  # columns of values mixed at a time
_TILE = 32 * 16 * LANES  # numbers of a tile: 16 KB, half of the first cache
_POSITIONS = 4  # positions that share the loads of queries
_STRETCH = 32  # positions mixed by a few rows at a time
_TWO = 2 * _STRETCH  # stretches that are asked for while two others are mixed
_AHEAD = 8  # positions asked for before they are multiplied by a few rows
_ZERO = np.float32(0)
# A float16 moved to a float32's place is 2**112 too small: the exponents' biases are 15 and 127.
_SIGN, _MAGNITUDE, _REBIAS = np.uint32(0x8000), np.uint32(0x7FFF), np.float32(2.0**112)
_SIGN_SHIFT, _SHIFT = np.uint32(16), np.uint32(13)


@inner
def up(n, step):
    """n rounded up to a multiple of step."""
    return (n + step - 1) // step * step


@inner
def tile_positions(width, at_most):
    """How many positions a tile of such a width holds."""
    n = 4
    while 2 * n <= at_most and 2 * n * width <= _TILE:
        n *= 2
    return n


def tile_numbers(width: int) -> int:
    """How many numbers a tile of such a width, or a lesser one, has at most."""
    return max(_TILE, 4 * width)


@inner
def laid_out(desk, rows, columns):
    """(the beginning of a stretch of numbers as an array, the rest of it)."""
    return desk[: rows * columns].reshape((rows, columns)), desk[rows * columns :]


@inner
def load(rows, at):
    """LANES numbers as float32.

    Shapes: rows f32, or u16 that holds float16
    """
    return load_f16(rows, at, LANES) if rows.itemsize == 2 else load_f32(rows, at, LANES)


@inner
def widen(rows, at, stride, count, first, width, tile):
    """tile = columns first .. first + width - 1 of `count` rows as float32, zeros around them.

    Shapes: rows [..] f32, or u16 that holds finite float16; the first row begins at element `at`
    """
    whole = width // LANES * LANES
    for r in range(count):
        row = at + r * stride + first
        for i in range(0, whole, LANES):
            store_f32(tile, r * tile.shape[1] + i, load(rows, row + i))
        for i in range(whole, width):
            tile[r, i] = _as_float32(rows[row + i])
        tile[r, width:] = _ZERO
    tile[count:] = _ZERO


@inner
def _as_float32(x):
    """A float32 itself; a finite float16 from its 16 bits."""
    if isinstance(x, np.float32):
        return x
    bits = np.uint32(x)
    magnitude = np.float32(np.uint32((bits & _MAGNITUDE) << _SHIFT).view(np.float32) * _REBIAS)
    return np.uint32(magnitude.view(np.uint32) | ((bits & _SIGN) << _SIGN_SHIFT)).view(np.float32)


@inner
def scaled_copy(source, at, count, factor, target, to):
    """target[to + i] = factor * source[at + i] for i < count.

    Shapes: source, target f32, counted as if they had one dimension
    """
    whole, factors = count // LANES * LANES, splat_f32(factor, LANES)
    for i in range(0, whole, LANES):
        store_f32(target, to + i, mul(load_f32(source, at + i, LANES), factors))
    for i in range(whole, count):
        store_f32(target, to + i, mul(load_f32(source, at + i, 1), splat_f32(factor, 1)))


@inner
def dot_tile(queries, rows, tile, scores, column):
    """scores[r, column + p] = queries[r] . tile[p], for the first `rows` rows, a multiple of MANY."""
    width, places = tile.shape[1], scores.shape[1]
    for r in range(0, rows, MANY):
        q0, q1, q2 = r * width, (r + 1) * width, (r + 2) * width
        for p in range(0, tile.shape[0], _POSITIONS):
            k0, k1, k2, k3 = p * width, (p + 1) * width, (p + 2) * width, (p + 3) * width
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = splat_f32(_ZERO, LANES)
            for i in range(0, width, LANES):
                a, b, c = (
                    load_f32(queries, q0 + i, LANES),
                    load_f32(queries, q1 + i, LANES),
                    load_f32(queries, q2 + i, LANES),
                )
                k = load_f32(tile, k0 + i, LANES)
                a0, b0, c0 = fma(a, k, a0), fma(b, k, b0), fma(c, k, c0)
                k = load_f32(tile, k1 + i, LANES)
                a1, b1, c1 = fma(a, k, a1), fma(b, k, b1), fma(c, k, c1)
                k = load_f32(tile, k2 + i, LANES)
                a2, b2, c2 = fma(a, k, a2), fma(b, k, b2), fma(c, k, c2)
                k = load_f32(tile, k3 + i, LANES)
                a3, b3, c3 = fma(a, k, a3), fma(b, k, b3), fma(c, k, c3)
            at = r * places + column + p
            store_f32(scores, at, sums_of(a0, a1, a2, a3))
            store_f32(scores, at + places, sums_of(b0, b1, b2, b3))
            store_f32(scores, at + 2 * places, sums_of(c0, c1, c2, c3))


@inner
def mix_tile(weights, rows, column, tile, mixed, first):
    """mixed[r, first + i] += sum over positions p of weights[r, column + p] * tile[p, i], for the first `rows` rows.

    The tile's columns are a multiple of 4 LANES, the rows one of MANY.
    """
    width, stride, places = tile.shape[1], mixed.shape[1], weights.shape[1]
    for r in range(0, rows, MANY):
        w0, w1, w2 = r * places + column, (r + 1) * places + column, (r + 2) * places + column
        for i in range(0, width, STEP):
            a, b, c = r * stride + first + i, (r + 1) * stride + first + i, (r + 2) * stride + first + i
            a0, a1 = load_f32(mixed, a, LANES), load_f32(mixed, a + LANES, LANES)
            a2, a3 = load_f32(mixed, a + PAIR, LANES), load_f32(mixed, a + PAIR + LANES, LANES)
            b0, b1 = load_f32(mixed, b, LANES), load_f32(mixed, b + LANES, LANES)
            b2, b3 = load_f32(mixed, b + PAIR, LANES), load_f32(mixed, b + PAIR + LANES, LANES)
            c0, c1 = load_f32(mixed, c, LANES), load_f32(mixed, c + LANES, LANES)
            c2, c3 = load_f32(mixed, c + PAIR, LANES), load_f32(mixed, c + PAIR + LANES, LANES)
            for p in range(tile.shape[0]):
                at = p * width + i
                u = splat1(weights, w0 + p, LANES)
                v = splat1(weights, w1 + p, LANES)
                w = splat1(weights, w2 + p, LANES)
                x = load_f32(tile, at, LANES)
                a0, b0, c0 = fma(u, x, a0), fma(v, x, b0), fma(w, x, c0)
                x = load_f32(tile, at + LANES, LANES)
                a1, b1, c1 = fma(u, x, a1), fma(v, x, b1), fma(w, x, c1)
                x = load_f32(tile, at + PAIR, LANES)
                a2, b2, c2 = fma(u, x, a2), fma(v, x, b2), fma(w, x, c2)
                x = load_f32(tile, at + PAIR + LANES, LANES)
                a3, b3, c3 = fma(u, x, a3), fma(v, x, b3), fma(w, x, c3)
            _store4(mixed, a, a0, a1, a2, a3)
            _store4(mixed, b, b0, b1, b2, b3)
            _store4(mixed, c, c0, c1, c2, c3)


@inner
def _store4(out, at, first, second, third, fourth):
    store_f32(out, at, first)
    store_f32(out, at + LANES, second)
    store_f32(out, at + PAIR, third)
    store_f32(out, at + PAIR + LANES, fourth)


@inner
def dot_few(queries, rows, stored, at, stride, seen, scores):
    """scores[r, p] = queries[r] . the p-th of `seen` stored rows, for the first `rows` rows, a multiple of FEW.

    Shapes: stored [..] f32, or u16 that holds float16; the first begins at element `at`; an odd `seen` reads one more
    """
    width = queries.shape[1]
    half = (seen + 1) // 2  # memory brings two places at once faster than one
    for p in range(half):
        k0 = at + p * stride
        for upcoming in (k0 + _AHEAD * stride, k0 + (half + _AHEAD) * stride):
            prefetch_all(stored, upcoming, upcoming + stride)
        k0 = settled(k0)
        k1 = k0 + half * stride
        for r in range(0, rows, FEW):
            q0, q1, q2, q3 = r * width, (r + 1) * width, (r + 2) * width, (r + 3) * width
            x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = splat_f32(_ZERO, LANES)
            for i in range(0, width, LANES):
                u, v = load(stored, k0 + i), load(stored, k1 + i)
                q = load_f32(queries, q0 + i, LANES)
                x0, y0 = fma(q, u, x0), fma(q, v, y0)
                q = load_f32(queries, q1 + i, LANES)
                x1, y1 = fma(q, u, x1), fma(q, v, y1)
                q = load_f32(queries, q2 + i, LANES)
                x2, y2 = fma(q, u, x2), fma(q, v, y2)
                q = load_f32(queries, q3 + i, LANES)
                x3, y3 = fma(q, u, x3), fma(q, v, y3)
            _store_column(scores, p, r, sums_of(x0, x1, x2, x3))
            _store_column(scores, p + half, r, sums_of(y0, y1, y2, y3))


@inner
def ask_for_dots(stored, at, stride):
    """Let the cache fetch what `dot_few` begins with on a whole page: it asks for what comes after."""
    for first in (at, at + PAGE // 2 * stride):
        prefetch_all(stored, first, first + _AHEAD * stride)


@inner
def _store_column(scores, column, r, sums):
    """Put the four sums below one another."""
    scores[r, column], scores[r + 1, column] = lane(sums, 0), lane(sums, 1)
    scores[r + 2, column], scores[r + 3, column] = lane(sums, 2), lane(sums, 3)


@inner
def ask_for_mix(stored, at, stride, seen):
    """Let the cache fetch what `mix_few` begins with: it asks for what comes after."""
    prefetch_all(stored, at, at + min(seen, _TWO) * stride)


@inner
def mix_few(weights, rows, stored, at, stride, seen, mixed):
    """mixed[r] += sum over the `seen` positions p of weights[r, p] * the p-th stored row.

    Shapes: as in `dot_few`; mixed has a multiple of 2 LANES columns
    """
    width, places = mixed.shape[1], weights.shape[1]
    share = PAIR * FEW // (2 * rows)  # numbers asked for at a step: all steps of two stretches ask for the next two
    for start in range(0, seen, _STRETCH):
        end = min(start + _STRETCH, seen)
        if start % _TWO == 0:
            upcoming = at + (start + _TWO) * stride
            if start + _TWO >= seen:
                upcoming, share = at + start * stride, 0  # these again, which costs nothing
        for r in range(0, rows, FEW):
            w0, w1, w2, w3 = r * places, (r + 1) * places, (r + 2) * places, (r + 3) * places
            for i in range(0, width, PAIR):
                a, b, c, d = r * width + i, (r + 1) * width + i, (r + 2) * width + i, (r + 3) * width + i
                a0, a1 = load_f32(mixed, a, LANES), load_f32(mixed, a + LANES, LANES)
                b0, b1 = load_f32(mixed, b, LANES), load_f32(mixed, b + LANES, LANES)
                c0, c1 = load_f32(mixed, c, LANES), load_f32(mixed, c + LANES, LANES)
                d0, d1 = load_f32(mixed, d, LANES), load_f32(mixed, d + LANES, LANES)
                for p in range(start, end):
                    # In the order of memory, not of columns, and in two places in turns.
                    prefetch(stored, upcoming + (p - start) * share + (p & 1) * _STRETCH * stride)
                    x = at + p * stride + i
                    u, v = load(stored, x), load(stored, x + LANES)
                    w = splat1(weights, w0 + p, LANES)
                    a0, a1 = fma(w, u, a0), fma(w, v, a1)
                    w = splat1(weights, w1 + p, LANES)
                    b0, b1 = fma(w, u, b0), fma(w, v, b1)
                    w = splat1(weights, w2 + p, LANES)
                    c0, c1 = fma(w, u, c0), fma(w, v, c1)
                    w = splat1(weights, w3 + p, LANES)
                    d0, d1 = fma(w, u, d0), fma(w, v, d1)
                store_f32(mixed, a, a0)
                store_f32(mixed, a + LANES, a1)
                store_f32(mixed, b, b0)
                store_f32(mixed, b + LANES, b1)
                store_f32(mixed, c, c0)
                store_f32(mixed, c + LANES, c1)
                store_f32(mixed, d, d0)
                store_f32(mixed, d + LANES, d1)
                upcoming += _STRETCH * share
