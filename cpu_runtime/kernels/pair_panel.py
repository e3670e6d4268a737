"""The product of a panel of bytes with many tokens, two products at a time: AVX2, and CPUs without vectors of bytes.

An instruction multiplies 32 bytes at once and adds neighbours. The sum of 8 products fits into an int16
(8 * 32 * 127 < 2^15), so that 16 inputs are added up before the factor takes them to int32; it may wrap meanwhile.

Shapes: as in `byte_panel.py`; factors [32, 16, 2] i16, each twice
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.activations import GROUP
from cpu_runtime.kernels.integers import in_order, pair_dot, quad_add
from cpu_runtime.kernels.packs import HALF, HALF_PACK, PACK, SCALE_AT, START_AT, after, places
from cpu_runtime.kernels.upcoming import ask
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i8,
    load_i16,
    mul,
    splat1,
    splat2,
    splat4,
    splat_i32,
    store_f32,
    store_i16,
    to_f32,
)
from quant.formats import ROWS, SEGMENT
from quant.jit import inner

FACTOR: np.ndarray = np.zeros(SEGMENT // HALF * ROWS * 2, np.int16)  # of a panel: its type and size
_TWICE = 2 * ROWS
_QUAD = 4 * ROWS


@inner
def put_factors(factors, i, row, values):
    """The factors of inputs i .. i + 15 (a multiple of 16) for rows from `row` on, each twice."""
    store_i16(factors, i // HALF * _TWICE + 2 * row, values)


@inner
def _add_half(totals, panel, factors, i, packs, at):
    """totals += products of 16 inputs, from i on in the panel and at[..] in the packs, for four tokens.

    In this order they want 13 registers; LLVM would rather have all of the weights at hand, and run out of them.
    """
    a, b = _start(packs, at[0]), _start(packs, at[1])
    c, d = _start(packs, at[2]), _start(packs, at[3])
    for j in range(0, HALF, 4):
        w = _quad(panel, i + j)
        a = in_order(quad_add(a, w, splat4(packs, at[0] + j, ROWS)))
        b = in_order(quad_add(b, w, splat4(packs, at[1] + j, ROWS)))
        c = in_order(quad_add(c, w, splat4(packs, at[2] + j, ROWS)))
        d = in_order(quad_add(d, w, splat4(packs, at[3] + j, ROWS)))
    factor = _factors(factors, i)
    return (
        in_order(pair_dot(totals[0], a, factor)),
        in_order(pair_dot(totals[1], b, factor)),
        in_order(pair_dot(totals[2], c, factor)),
        in_order(pair_dot(totals[3], d, factor)),
    )


@inner
def _start(packs, at):
    return in_order(splat2(packs, at + START_AT, ROWS))


@inner
def _quad(panel, i):
    return load_i8(panel, i * ROWS, _QUAD)


@inner
def _factors(factors, i):
    return load_i16(factors, i // HALF * _TWICE, _TWICE)


@inner
def _add(out, o, total, scales, g, packs, at):
    """One scale a row: it waits until the panel is through, see `byte_panel.add_scaled`."""
    store_f32(out, o, fma(to_f32(total), splat1(packs, at + SCALE_AT, ROWS), load_f32(out, o, ROWS)))


@inner
def _add_grouped(out, o, total, scales, g, packs, at):
    """A scale for each row and 32 inputs."""
    both = mul(load_f32(scales, ROWS * g, ROWS), splat1(packs, at + SCALE_AT, ROWS))
    store_f32(out, o, fma(to_f32(total), both, load_f32(out, o, ROWS)))


def _multiply_with(add: Any) -> Any:
    """Make multiply(panel, factors, scales, groups, start, packs, tokens, out, upcoming), which does

    out[16 p : 16 p + 16] += panel · inputs `start` and further of token tokens[p], 32 inputs at a time by `add`.
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
        """Four tokens: each weight is loaded once for all, and the sums of 16 rows of each stay in registers."""
        for g in range(groups):
            zero = splat_i32(0, ROWS)
            totals = zero, zero, zero, zero
            for half in range(2):
                totals = _add_half(totals, panel, factors, GROUP * g + HALF * half, packs, after(at, HALF_PACK * half))
            add(out, o, totals[0], scales, g, packs, at[0])
            add(out, o + ROWS, totals[1], scales, g, packs, at[1])
            add(out, o + 2 * ROWS, totals[2], scales, g, packs, at[2])
            add(out, o + 3 * ROWS, totals[3], scales, g, packs, at[3])
            at = after(at, PACK)

    @inner
    def one(panel, factors, scales, groups, packs, at, out, o):
        for g in range(groups):
            total = splat_i32(0, ROWS)
            for half in range(2):
                i, half_at = GROUP * g + HALF * half, at + HALF_PACK * half
                few = splat2(packs, half_at + START_AT, ROWS)
                for j in range(0, HALF, 4):
                    few = quad_add(few, _quad(panel, i + j), splat4(packs, half_at + j, ROWS))
                total = pair_dot(total, few, _factors(factors, i))
            add(out, o, total, scales, g, packs, at)
            at += PACK

    return multiply


multiply_bytes, multiply_bytes_grouped = _multiply_with(_add), _multiply_with(_add_grouped)
