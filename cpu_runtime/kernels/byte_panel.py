"""A panel of bytes: a stretch of a tile unpacked to small weights, and its product with many tokens at once.

Formats of at most 4 bits have levels within -32 .. 32, times an integer for each row and 16 inputs. Held LIFT higher
they are unsigned bytes, and CPUs have an instruction that multiplies 32 of these at once and adds neighbours. The sum
of 8 products fits into an int16 (8 * 32 * 127 < 2^15), so that 16 inputs are added up before the factor takes them to
int32. What levels held higher add too much is known of each token, and is where a sum starts; it may wrap meanwhile.

Shapes: panel [128, 16, 4] u8: 4 inputs of a row side by side · factors [32, 16, 2] i16: of 16 inputs, of a row, twice
        scales of rows, [16] f32, or of 32 inputs and rows, [16, 16] f32
        q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16, 2] i16
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.activations import GROUP, LOWER
from cpu_runtime.kernels.integers import in_order, minus, pair_dot, quad_add
from cpu_runtime.kernels.upcoming import ask
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i8,
    load_i16,
    mul,
    splat2,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    store_i8,
    store_i16,
    to_f32,
)
from quant.formats import ROWS, SEGMENT
from quant.jit import inner

HALF = GROUP // 2  # inputs that share a factor
PANEL = SEGMENT * ROWS  # bytes of a panel
FACTORS = SEGMENT // HALF * ROWS * 2
SCALES = SEGMENT // GROUP * ROWS
_TWICE = 2 * ROWS
_QUAD = 4 * ROWS
_ZERO = np.float32(0)


@inner
def put(panel, i, row, weights):
    """The weights of inputs i .. i + 3 (a multiple of 4), bytes of rows from `row` on, 4 a row."""
    store_i8(panel, i * ROWS + 4 * row, minus(weights, LOWER))


@inner
def put_factors(factors, i, row, values):
    """The factors of inputs i .. i + 15 (a multiple of 16) for rows from `row` on, each twice."""
    store_i16(factors, i // HALF * _TWICE + 2 * row, values)


@inner
def _sums_of_four(panel, i, q, at, sums):
    """int16 sums of inputs i .. i + 15 of the panel, for four tokens, which have them at q[at].

    In this order they want 13 registers; LLVM would rather have all of the weights at hand, and run out of them.
    """
    a, b, c, d = _start(sums, at[0]), _start(sums, at[1]), _start(sums, at[2]), _start(sums, at[3])
    for j in range(0, HALF, 4):
        w = _quad(panel, i + j)
        a = in_order(quad_add(a, w, splat4(q, at[0] + j, ROWS)))
        b = in_order(quad_add(b, w, splat4(q, at[1] + j, ROWS)))
        c = in_order(quad_add(c, w, splat4(q, at[2] + j, ROWS)))
        d = in_order(quad_add(d, w, splat4(q, at[3] + j, ROWS)))
    return a, b, c, d


@inner
def _start(sums, at):
    return in_order(splat2(sums, at >> 3, ROWS))


@inner
def _quad(panel, i):
    return load_i8(panel, i * ROWS, _QUAD)


@inner
def _factors(factors, i):
    return load_i16(factors, i // HALF * _TWICE, _TWICE)


@inner
def _add(out, o, total, scales, g, scale):
    """One scale a row: it waits until the panel is through, see `add_scaled`."""
    store_f32(out, o, fma(to_f32(total), splat_f32(scale, ROWS), load_f32(out, o, ROWS)))


@inner
def _add_grouped(out, o, total, scales, g, scale):
    """A scale for each row and 32 inputs."""
    both = mul(load_f32(scales, ROWS * g, ROWS), splat_f32(scale, ROWS))
    store_f32(out, o, fma(to_f32(total), both, load_f32(out, o, ROWS)))


def _multiply_with(add: Any) -> Any:
    """Make multiply(panel, factors, scales, groups, start, q, scale, sums, tokens, out, upcoming), which does

    out[16 p : 16 p + 16] += panel · inputs `start` and further of token tokens[p], 32 inputs at a time by `add`.
    A share of what is upcoming is asked for every four tokens.
    """

    @inner
    def multiply(panel, factors, scales, groups, start, q, scale, sums, tokens, out, upcoming):
        p = 0
        while p + 4 <= tokens.size:
            ask(upcoming, p // 4)
            four(panel, factors, scales, groups, start, q, scale, sums, tokens, p, out)
            p += 4
        ask(upcoming, p // 4)
        while p < tokens.size:
            one(panel, factors, scales, groups, start, q, scale, sums, tokens[p], out, ROWS * p)
            p += 1

    @inner
    def four(panel, factors, scales, groups, start, q, scale, sums, tokens, p, out):
        """Four tokens: each weight is loaded once for all, and the sums of 16 rows of each stay in registers."""
        t0, t1, t2, t3 = tokens[p], tokens[p + 1], tokens[p + 2], tokens[p + 3]
        width, o = q.shape[1], ROWS * p
        for g in range(groups):
            x = start + GROUP * g
            a = b = c = d = splat_i32(0, ROWS)
            for i in range(0, GROUP, HALF):
                at = t0 * width + x + i, t1 * width + x + i, t2 * width + x + i, t3 * width + x + i
                few = _sums_of_four(panel, GROUP * g + i, q, at, sums)
                factor = _factors(factors, GROUP * g + i)
                a, b = pair_dot(a, few[0], factor), pair_dot(b, few[1], factor)
                c, d = pair_dot(c, few[2], factor), pair_dot(d, few[3], factor)
            s = x // GROUP
            add(out, o, a, scales, g, scale[t0, s])
            add(out, o + ROWS, b, scales, g, scale[t1, s])
            add(out, o + 2 * ROWS, c, scales, g, scale[t2, s])
            add(out, o + 3 * ROWS, d, scales, g, scale[t3, s])

    @inner
    def one(panel, factors, scales, groups, start, q, scale, sums, t, out, o):
        for g in range(groups):
            x, total = start + GROUP * g, splat_i32(0, ROWS)
            for i in range(0, GROUP, HALF):
                at = t * q.shape[1] + x + i
                few = splat2(sums, at >> 3, ROWS)
                for j in range(0, HALF, 4):
                    few = quad_add(few, _quad(panel, GROUP * g + i + j), splat4(q, at + j, ROWS))
                total = pair_dot(total, few, _factors(factors, GROUP * g + i))
            add(out, o, total, scales, g, scale[t, x // GROUP])

    return multiply


multiply_bytes, multiply_bytes_grouped = _multiply_with(_add), _multiply_with(_add_grouped)


@inner
def add_scaled(sums, scales, out, size):
    """The first `size` of out += sums times the scales of 16 rows; those sums = 0.

    Shapes: sums, out [at least 16 P] f32 · scales [16] f32
    """
    row_scales = load_f32(scales, 0, ROWS)
    for o in range(0, size, ROWS):
        store_f32(out, o, fma(load_f32(sums, o, ROWS), row_scales, load_f32(out, o, ROWS)))
        store_f32(sums, o, splat_f32(_ZERO, ROWS))
