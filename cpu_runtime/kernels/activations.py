"""Activations quantized to int8 for integer dot products."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.integers import pair_sums
from cpu_runtime.kernels.reductions import larger, largest_of
from cpu_runtime.kernels.vectors import load_f32, mul, splat_f32, store_i8, store_i16, to_i8
from quant.jit import inner, parallel_kernel, prange

GROUP = 32  # inputs that share a scale
LIFT = 32  # how much higher weights are held where products take unsigned ones
LOWER = -LIFT  # a constant of its own, as operations take one
_ZERO, _MINUS, _LARGEST = np.float32(0), np.float32(-1), np.float32(127)


@parallel_kernel
def quantize_rows(x, q, scale, sums):
    """q = round(x / scale), scale = the largest |x| of 32 over 127; sums, what weights held higher add too much.

    Of each 16 inputs these are -LIFT times the sum of q where an input's number, divided by 4, leaves 0 or 1, and of
    the rest: within 32 * 8 * 127 < 2^15.
    Shapes: x [T, Cp] f32 · q [T, Cp] i8 · scale [T, Cp/32] f32 · sums [T, Cp/16, 2] i16
    """
    tokens, groups = scale.shape
    for t in prange(tokens):
        for g in range(groups):
            quantize_group(x[t], g, q[t], scale[t], sums[t])


@inner
def quantize_group(x, g, q, scale, sums):
    """The g-th 32 of one row."""
    start = GROUP * g
    values = load_f32(x, start, GROUP)
    largest = largest_of(larger(values, mul(values, splat_f32(_MINUS, GROUP))))
    inverse = _LARGEST / largest if largest > _ZERO else _ZERO
    scale[g] = largest / _LARGEST
    codes = to_i8(mul(values, splat_f32(inverse, GROUP)))
    store_i8(q, start, codes)
    store_i16(sums, GROUP // 8 * g, pair_sums(codes, LOWER))


@inner
def too_much(offset, sums, t, s):
    """-offset times the sum of inputs 16 s .. 16 s + 15 of token t: what weights held so much higher add too much."""
    return np.int32(offset * (np.int32(sums[t, s, 0]) + np.int32(sums[t, s, 1])) // LIFT)
