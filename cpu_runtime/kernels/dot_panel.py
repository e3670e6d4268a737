"""The product of a panel of bytes with many tokens, four products at a time: AVX-VNNI, AVX512-VNNI, NEON.

A sum over 16 inputs is an int32, which becomes a float before its factor is applied, and is added to that of the next
16. Whole numbers below 2^24 are exact as floats, so that this is the int32 that a single token's products add up to.
Sums of a panel stay in registers.

Shapes: as in `byte_panel.py`; factors [32, 16] f32
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.activations import GROUP
from cpu_runtime.kernels.integers import dot, seconds
from cpu_runtime.kernels.packs import HALF, HALF_PACK, PACK, SCALE_AT, START_AT, WHOLE_AT, after, places
from cpu_runtime.kernels.upcoming import ask
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i8,
    mul,
    splat1,
    splat1_i32,
    splat4,
    splat_f32,
    store_f32,
    to_f32,
)
from quant.formats import ROWS, SEGMENT
from quant.jit import inner

FACTOR: np.ndarray = np.zeros(SEGMENT // HALF * ROWS, np.float32)  # of a panel: its type and size
_QUAD = 4 * ROWS
_ZERO = np.float32(0)


@inner
def put_factors(factors, i, row, values):
    """The factors of inputs i .. i + 15 (a multiple of 16) for rows from `row` on, int16 and each twice."""
    store_f32(factors, i // HALF * ROWS + row, to_f32(seconds(values)))


@inner
def _add_dots(sums, panel, i, count, packs, at):
    """sums += products of `count` inputs, from i on in the panel and at[..] in the packs, for four tokens."""
    a, b, c, d = sums
    for j in range(0, count, 4):
        w = load_i8(panel, (i + j) * ROWS, _QUAD)
        a = dot(a, w, splat4(packs, at[0] + j, ROWS))
        b = dot(b, w, splat4(packs, at[1] + j, ROWS))
        c = dot(c, w, splat4(packs, at[2] + j, ROWS))
        d = dot(d, w, splat4(packs, at[3] + j, ROWS))
    return a, b, c, d


@inner
def _starts(packs, at, where):
    return (
        splat1_i32(packs, at[0] + where, ROWS),
        splat1_i32(packs, at[1] + where, ROWS),
        splat1_i32(packs, at[2] + where, ROWS),
        splat1_i32(packs, at[3] + where, ROWS),
    )


@inner
def _four_by_factors(panel, factors, g, packs, at):
    """Sums over the g-th 32 inputs, f32, for four tokens."""
    zero = splat_f32(_ZERO, ROWS)
    totals = zero, zero, zero, zero
    for half in range(2):
        half_at = after(at, HALF_PACK * half)
        i = GROUP * g + HALF * half
        a, b, c, d = _add_dots(_starts(packs, half_at, START_AT), panel, i, HALF, packs, half_at)
        factor = load_f32(factors, i // HALF * ROWS, ROWS)
        totals = (
            fma(to_f32(a), factor, totals[0]),
            fma(to_f32(b), factor, totals[1]),
            fma(to_f32(c), factor, totals[2]),
            fma(to_f32(d), factor, totals[3]),
        )
    return totals


@inner
def _one_by_factors(panel, factors, g, packs, at):
    total = splat_f32(_ZERO, ROWS)
    for half in range(2):
        half_at, i = at + HALF_PACK * half, GROUP * g + HALF * half
        few = splat1_i32(packs, half_at + START_AT, ROWS)
        for j in range(0, HALF, 4):
            few = dot(few, load_i8(panel, (i + j) * ROWS, _QUAD), splat4(packs, half_at + j, ROWS))
        total = fma(to_f32(few), load_f32(factors, i // HALF * ROWS, ROWS), total)
    return total


@inner
def _four_whole(panel, factors, g, packs, at):
    """The same without factors: one sum over all 32."""
    sums = _starts(packs, at, WHOLE_AT)
    for half in range(2):
        sums = _add_dots(sums, panel, GROUP * g + HALF * half, HALF, packs, after(at, HALF_PACK * half))
    return to_f32(sums[0]), to_f32(sums[1]), to_f32(sums[2]), to_f32(sums[3])


@inner
def _one_whole(panel, factors, g, packs, at):
    few = splat1_i32(packs, at + WHOLE_AT, ROWS)
    for half in range(2):
        half_at, i = at + HALF_PACK * half, GROUP * g + HALF * half
        for j in range(0, HALF, 4):
            few = dot(few, load_i8(panel, (i + j) * ROWS, _QUAD), splat4(packs, half_at + j, ROWS))
    return to_f32(few)


@inner
def _of_token(scales, g, packs, at):
    """One scale a row waits until the panel is through, see `byte_panel.add_scaled`."""
    return splat1(packs, at + SCALE_AT, ROWS)


@inner
def _of_both(scales, g, packs, at):
    """A scale for each row and 32 inputs."""
    return mul(load_f32(scales, ROWS * g, ROWS), splat1(packs, at + SCALE_AT, ROWS))


def _multiply_with(four_sums: Any, one_sum: Any, scale_of: Any) -> Any:
    """Make multiply(panel, factors, scales, groups, start, packs, tokens, out, upcoming), which does

    out[16 p : 16 p + 16] += panel · inputs `start` and further of token tokens[p], 32 inputs at a time.
    A share of what is upcoming is asked for every four tokens.
    """

    @inner
    def multiply(panel, factors, scales, groups, start, packs, tokens, out, upcoming):
        first, p = start // GROUP * PACK, 0
        while p + 4 <= tokens.size:
            ask(upcoming, p // 4)
            four(panel, factors, scales, groups, packs, places(tokens, p, packs, first), out, ROWS * p)
            p += 4
        ask(upcoming, p // 4)
        while p < tokens.size:
            one(panel, factors, scales, groups, packs, tokens[p] * packs.shape[1] + first, out, ROWS * p)
            p += 1

    @inner
    def four(panel, factors, scales, groups, packs, at, out, o):
        a, b = load_f32(out, o, ROWS), load_f32(out, o + ROWS, ROWS)
        c, d = load_f32(out, o + 2 * ROWS, ROWS), load_f32(out, o + 3 * ROWS, ROWS)
        for g in range(groups):
            totals = four_sums(panel, factors, g, packs, at)
            a = fma(totals[0], scale_of(scales, g, packs, at[0]), a)
            b = fma(totals[1], scale_of(scales, g, packs, at[1]), b)
            c = fma(totals[2], scale_of(scales, g, packs, at[2]), c)
            d = fma(totals[3], scale_of(scales, g, packs, at[3]), d)
            at = after(at, PACK)
        store_f32(out, o, a)
        store_f32(out, o + ROWS, b)
        store_f32(out, o + 2 * ROWS, c)
        store_f32(out, o + 3 * ROWS, d)

    @inner
    def one(panel, factors, scales, groups, packs, at, out, o):
        total = load_f32(out, o, ROWS)
        for g in range(groups):
            total = fma(one_sum(panel, factors, g, packs, at), scale_of(scales, g, packs, at), total)
            at += PACK
        store_f32(out, o, total)

    return multiply


multiply_bytes = _multiply_with(_four_by_factors, _one_by_factors, _of_token)
multiply_bytes_grouped = _multiply_with(_four_by_factors, _one_by_factors, _of_both)
multiply_whole = _multiply_with(_four_whole, _one_whole, _of_both)  # of weights OFFSET higher, for which factors are 1
