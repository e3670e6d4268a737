"""What one token passes through between its matrices, in the calling thread: to wake others would take longer.

Bit for bit what the kernels for many tokens make of each.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import quantize_group
from cpu_runtime.kernels.norm import add_row, rms_norm_quantized_row
from cpu_runtime.kernels.vectors import fma, load_f32, splat_f32, store_f32
from quant.jit import kernel

_STEP = 16  # numbers of an answer at once
_ZERO = np.float32(0)


@kernel
def norm_and_quantize_token(x, added, weight, eps, out, q, scale, sums):
    """`norm.rms_norm_quantized` for one row.

    Shapes: x [1, D] f32 · added [1, D] f32, or of no rows · weight [D] f32 · out [1, Cp] f32, zero beyond D
            q, scale, sums as in `quantize_token`
    """
    if added.shape[0]:
        add_row(added[0], x[0])
    rms_norm_quantized_row(x[0], weight, eps, out[0], q[0], scale[0], sums[0])


@kernel
def quantize_token(x, q, scale, sums):
    """`activations.quantize_rows` for one row.

    Shapes: x [1, Cp] f32 · q [1, Cp] i8 · scale [1, Cp/32] f32 · sums [1, Cp/16, 2] i16
    """
    for g in range(scale.shape[1]):
        quantize_group(x[0], g, q[0], scale[0], sums[0])


@kernel
def weighted_sum_of_token(answers, weights, out):
    """`experts.weighted_sum` for one token, whose answers lie in the order of its weights.

    Shapes: answers [A, whole tiles of D] f32 · weights [1, A] f32 · out [1, whole tiles of D] f32
    """
    width = answers.shape[1]
    for i in range(0, width, _STEP):
        total = splat_f32(_ZERO, _STEP)
        for j in range(weights.shape[1]):
            total = fma(splat_f32(weights[0, j], _STEP), load_f32(answers, j * width + i, _STEP), total)
        store_f32(out, i, total)
