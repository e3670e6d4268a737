"""Activations as panels meet them: all that a product with 32 inputs takes, side by side.

A kernel that meets four tokens at once has one address for each of them then. With the arrays apart it would have
twelve, more than a CPU has registers for, and a tenth of its instructions would be their arithmetic.

Shapes: q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16, 2] i16 as in `activations.py`
        packs [T, PACK * Cp/32] i8, for panels of bytes: q of 16 inputs and where their sum starts, those of 16 more,
        scale, and where it has DOTS the start of a sum of all 32 whose weights are held OFFSET higher
        wide packs [T, WIDE_PACK * Cp/32] i8: q of 32 as int16, every four in the order 0, 2, 1, 3, and scale
"""

from __future__ import annotations

from cpu_runtime.kernels.activations import GROUP, LIFT, too_much
from cpu_runtime.kernels.cpu import DOTS, OFFSET
from cpu_runtime.kernels.integers import widened
from cpu_runtime.kernels.vectors import (
    load_i8,
    load_i16,
    splat1,
    splat_i32,
    store_f32,
    store_i8,
    store_i16,
    store_i32,
)
from quant.jit import inner, parallel_kernel, prange

HALF = GROUP // 2  # inputs that panels of bytes have a factor for
START_AT = HALF  # bytes into half a pack
HALF_PACK = START_AT + 4
SCALE_AT = 2 * HALF_PACK
WHOLE_AT = SCALE_AT + 4
PACK = WHOLE_AT + (4 if DOTS else 0)
WIDE_SCALE_AT = 2 * GROUP
WIDE_PACK = WIDE_SCALE_AT + 4


if DOTS:

    @inner
    def _put_start(packs, at, sums, sixteen):
        store_i32(packs, at, splat_i32(_of(sums, LIFT, sixteen), 1))

    @inner
    def _put_whole(packs, at, sums, sixteen):
        store_i32(packs, at, splat_i32(_of(sums, OFFSET, sixteen) + _of(sums, OFFSET, sixteen + 1), 1))

    @inner
    def _of(sums, offset, sixteen):
        tokens, sixteens, _ = sums.shape
        return too_much(offset, sums, sixteen // sixteens, sixteen % sixteens)
else:

    @inner
    def _put_start(packs, at, sums, sixteen):
        store_i16(packs, at, load_i16(sums, 2 * sixteen, 2))

    @inner
    def _put_whole(packs, at, sums, sixteen):
        pass


@parallel_kernel
def pack_rows(q, scale, sums, packs):
    """Make packs."""
    tokens, groups = scale.shape
    for t in prange(tokens):
        for g in range(t * groups, (t + 1) * groups):
            for half in range(2):
                at, sixteen = PACK * g + HALF_PACK * half, 2 * g + half
                store_i8(packs, at, load_i8(q, HALF * sixteen, HALF))
                _put_start(packs, at + START_AT, sums, sixteen)
            store_f32(packs, PACK * g + SCALE_AT, splat1(scale, g, 1))
            _put_whole(packs, PACK * g + WHOLE_AT, sums, 2 * g)


@parallel_kernel
def pack_wide_rows(q, scale, packs):
    """Make wide packs."""
    tokens, groups = scale.shape
    for t in prange(tokens):
        for g in range(t * groups, (t + 1) * groups):
            store_i16(packs, WIDE_PACK * g, widened(load_i8(q, GROUP * g, GROUP)))
            store_f32(packs, WIDE_PACK * g + WIDE_SCALE_AT, splat1(scale, g, 1))


@inner
def places(tokens, p, packs, at):
    """Where packs of tokens p .. p + 3 begin, `at` bytes into each one's row."""
    width = packs.shape[1]
    return (
        tokens[p] * width + at,
        tokens[p + 1] * width + at,
        tokens[p + 2] * width + at,
        tokens[p + 3] * width + at,
    )


@inner
def after(at, size):
    """Four places so many bytes further."""
    return at[0] + size, at[1] + size, at[2] + size, at[3] + size
