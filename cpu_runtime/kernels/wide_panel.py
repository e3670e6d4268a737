"""A wide panel: a stretch of a tile unpacked to int16, and its product with many tokens at once.

It is for formats whose weights times their integer scales are no bytes, and for q8 where a CPU has no DOTS: two inputs
of a row stand side by side, as the instructions that add two products want them, with one float scale for each row and
group of 32 inputs.

Shapes: panel [256, 16, 2] i16: pair k of a row is its inputs 4 (k // 2) + k % 2 and 2 further
        scales [16, 16] f32: of group of inputs, of row · packs: the wide ones of `packs.py`
"""

from __future__ import annotations

from cpu_runtime.kernels.activations import GROUP
from cpu_runtime.kernels.integers import (
    even_bytes,
    in_order,
    odd_bytes,
    pair_dot,
    times,
)
from cpu_runtime.kernels.packs import WIDE_PACK, WIDE_SCALE_AT, after, places
from cpu_runtime.kernels.upcoming import ask
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i16,
    mul,
    splat1,
    splat2,
    splat_i32,
    store_f32,
    store_i16,
    to_f32,
)
from quant.formats import ROWS
from quant.jit import inner

_PAIRS = 2 * ROWS  # weights of one vector: a pair of each row
_GROUP = GROUP * ROWS
_STEP = 8  # inputs without a branch between them


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
def multiply_wide(panel, scales, groups, start, packs, tokens, out, upcoming):
    """out[16 p : 16 p + 16] += panel · inputs `start` and further of token tokens[p].

    A share of what is upcoming is asked for every four tokens.
    """
    first, p = start // GROUP * WIDE_PACK, 0
    while p + 4 <= tokens.size:
        ask(upcoming, p // 4)
        _four(panel, scales, groups, packs, places(tokens, p, packs, first), out, ROWS * p)
        p += 4
    ask(upcoming, p // 4)
    while p < tokens.size:
        _one(panel, scales, groups, packs, tokens[p] * packs.shape[1] + first, out, ROWS * p)
        p += 1


@inner
def _four(panel, scales, groups, packs, at, out, o):
    """Four tokens: each pair of weights is loaded once for all, and the sums of 16 rows of each stay in registers."""
    for g in range(groups):
        zero = splat_i32(0, ROWS)
        totals = zero, zero, zero, zero
        for i in range(0, GROUP, _STEP):
            totals = _add_step(totals, panel, _GROUP * g + ROWS * i, packs, after(at, 2 * i))
        row_scales = load_f32(scales, ROWS * g, ROWS)
        _add(out, o, totals[0], row_scales, packs, at[0])
        _add(out, o + ROWS, totals[1], row_scales, packs, at[1])
        _add(out, o + 2 * ROWS, totals[2], row_scales, packs, at[2])
        _add(out, o + 3 * ROWS, totals[3], row_scales, packs, at[3])
        at = after(at, WIDE_PACK)


@inner
def _add_step(totals, panel, w_at, packs, at):
    """totals += products of a few inputs, for four tokens."""
    a, b, c, d = totals
    for i in range(0, _STEP, 2):
        w = load_i16(panel, w_at + ROWS * i, _PAIRS)
        a = in_order(pair_dot(a, w, splat2(packs, at[0] + 2 * i, ROWS)))
        b = in_order(pair_dot(b, w, splat2(packs, at[1] + 2 * i, ROWS)))
        c = in_order(pair_dot(c, w, splat2(packs, at[2] + 2 * i, ROWS)))
        d = in_order(pair_dot(d, w, splat2(packs, at[3] + 2 * i, ROWS)))
    return a, b, c, d


@inner
def _one(panel, scales, groups, packs, at, out, o):
    for g in range(groups):
        a = splat_i32(0, ROWS)
        for i in range(0, GROUP, 2):
            w = load_i16(panel, _GROUP * g + ROWS * i, _PAIRS)
            a = pair_dot(a, w, splat2(packs, at + 2 * i, ROWS))
        _add(out, o, a, load_f32(scales, ROWS * g, ROWS), packs, at)
        at += WIDE_PACK


@inner
def _add(out, o, total, row_scales, packs, at):
    """In the order in which a token alone adds them: see the tiles' kernels."""
    both = mul(row_scales, splat1(packs, at + WIDE_SCALE_AT, ROWS))
    store_f32(out, o, fma(to_f32(total), both, load_f32(out, o, ROWS)))
