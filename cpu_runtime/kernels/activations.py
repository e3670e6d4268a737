"""Activations quantized to int8 for integer dot products."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.reductions import larger, largest_of
from cpu_runtime.kernels.vectors import load_f32, mul, splat_f32, store_i8, to_i8
from quant.jit import inner, parallel_kernel, prange

GROUP = 32  # inputs that share a scale
_ZERO, _MINUS, _LARGEST = np.float32(0), np.float32(-1), np.float32(127)


@parallel_kernel
def quantize_rows(x, q, scale, sums):
    """q = round(x / scale), scale = the largest |x| of 32 over 127; sums of q over 16, as kernels with an offset need.

    Shapes: x [T, Cp] f32 · q [T, Cp] i8 · scale [T, Cp/32] f32 · sums [T, Cp/16] i32
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
    store_i8(q, start, to_i8(mul(values, splat_f32(inverse, GROUP))))
    for half in range(2):
        total = np.int32(0)
        for i in range(start + 16 * half, start + 16 * half + 16):
            total += np.int32(q[i])
        sums[2 * g + half] = total
