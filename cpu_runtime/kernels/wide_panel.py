"""A wide panel: a stretch of a tile unpacked to int16, and its product with many tokens at once.

It is for formats whose weights times their integer scales are no bytes: two inputs of a row stand side by side, as the
instructions that add two products want them, with one float scale for each row and group of 32 inputs.

Shapes: panel [256, 16, 2] i16: pair k of a row is its inputs 4 (k // 2) + k % 2 and 2 further
        scales [16, 16] f32: of group of inputs, of row · wide [T, Cp] i16: int8 activations in the order of the panel
"""

from __future__ import annotations

from cpu_runtime.kernels.activations import GROUP
from cpu_runtime.kernels.integers import (
    even_bytes,
    in_order,
    odd_bytes,
    pair_dot,
    times,
    widened,
)
from cpu_runtime.kernels.upcoming import ask
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i8,
    load_i16,
    mul,
    splat2,
    splat_f32,
    splat_i32,
    store_f32,
    store_i16,
    to_f32,
)
from quant.formats import ROWS
from quant.jit import inner, parallel_kernel, prange

_PAIRS = 2 * ROWS  # weights of one vector: a pair of each row
_GROUP = GROUP * ROWS


@parallel_kernel
def widen_rows(q, wide):
    """wide = q as int16, every four inputs in the order 0, 2, 1, 3: that of a panel's pairs.

    Shapes: q [T, Cp] i8 · wide [T, Cp] i16
    """
    for t in prange(q.shape[0]):
        for i in range(t * q.shape[1], (t + 1) * q.shape[1], GROUP):
            store_i16(wide, i, widened(load_i8(q, i, GROUP)))


@inner
def put(panel, i, row, weights):
    """The weights of inputs i .. i + 3 (a multiple of 4), bytes of rows from `row` on, 4 a row."""
    store_i16(panel, i * ROWS + 2 * row, even_bytes(weights))
    store_i16(panel, i * ROWS + _PAIRS + 2 * row, odd_bytes(weights))


@inner
def put_scaled(panel, i, row, weights, factors):
    """The same times an int16 factor for each row, in both of its places."""
    store_i16(panel, i * ROWS + 2 * row, times(even_bytes(weights), factors))
    store_i16(panel, i * ROWS + _PAIRS + 2 * row, times(odd_bytes(weights), factors))


@inner
def multiply_wide(panel, scales, groups, start, wide, x_scale, tokens, out, upcoming):
    """out[16 p : 16 p + 16] += panel · inputs `start` and further of token tokens[p].

    A share of what is upcoming is asked for every four tokens.
    """
    p = 0
    while p + 4 <= tokens.size:
        ask(upcoming, p // 4)
        _four(panel, scales, groups, start, wide, x_scale, tokens, p, out)
        p += 4
    ask(upcoming, p // 4)
    while p < tokens.size:
        _one(panel, scales, groups, start, wide, x_scale, tokens[p], out, ROWS * p)
        p += 1


@inner
def _four(panel, scales, groups, start, wide, x_scale, tokens, p, out):
    """Four tokens: each pair of weights is loaded once for all, and the sums of 16 rows of each stay in registers."""
    t0, t1, t2, t3 = tokens[p], tokens[p + 1], tokens[p + 2], tokens[p + 3]
    width = wide.shape[1]
    o = ROWS * p
    for g in range(groups):
        x = start + GROUP * g
        x0, x1, x2, x3 = t0 * width + x, t1 * width + x, t2 * width + x, t3 * width + x
        a = b = c = d = splat_i32(0, ROWS)
        for i in range(0, GROUP, 2):
            w = load_i16(panel, _GROUP * g + ROWS * i, _PAIRS)
            a = in_order(pair_dot(a, w, splat2(wide, x0 + i, ROWS)))
            b = in_order(pair_dot(b, w, splat2(wide, x1 + i, ROWS)))
            c = in_order(pair_dot(c, w, splat2(wide, x2 + i, ROWS)))
            d = in_order(pair_dot(d, w, splat2(wide, x3 + i, ROWS)))
        row_scales, s = load_f32(scales, ROWS * g, ROWS), x // GROUP
        _add(out, o, a, row_scales, x_scale[t0, s])
        _add(out, o + ROWS, b, row_scales, x_scale[t1, s])
        _add(out, o + 2 * ROWS, c, row_scales, x_scale[t2, s])
        _add(out, o + 3 * ROWS, d, row_scales, x_scale[t3, s])


@inner
def _one(panel, scales, groups, start, wide, x_scale, t, out, o):
    for g in range(groups):
        x = start + GROUP * g
        a = splat_i32(0, ROWS)
        for i in range(0, GROUP, 2):
            w = load_i16(panel, _GROUP * g + ROWS * i, _PAIRS)
            a = pair_dot(a, w, splat2(wide, t * wide.shape[1] + x + i, ROWS))
        _add(out, o, a, load_f32(scales, ROWS * g, ROWS), x_scale[t, x // GROUP])


@inner
def _add(out, o, total, row_scales, x_scale):
    """In the order in which a token alone adds them: see the tiles' kernels."""
    both = mul(row_scales, splat_f32(x_scale, ROWS))
    store_f32(out, o, fma(to_f32(total), both, load_f32(out, o, ROWS)))
