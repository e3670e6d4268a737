"""RMSNorm and LayerNorm, statistics in float64."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import GROUP, quantize_group
from cpu_runtime.kernels.reductions import add_squares
from cpu_runtime.kernels.vectors import load_f32, mul, splat_f32, store_f32
from quant.jit import inner, kernel, parallel_kernel, prange

_STEP = 32  # numbers of a row at once


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps); out may be x.

    Shapes: x, out [T, D] f32 · weight [D] f32
    """
    _rms_norm(np.ascontiguousarray(x), weight, np.float32(eps), out)


@kernel
def _rms_norm(x, weight, eps, out):
    for t in range(x.shape[0]):
        rms_norm_row(x[t], weight, eps, out[t])


@parallel_kernel
def rms_norm_quantized(x, added, weight, eps, out, q, scale, sums):
    """The same after x += added, and what `quantize_rows` makes of it: what stands between a block and its matrices.

    Shapes: x [T, D] f32 · added [T, D] f32, or of no rows · weight [D] f32 · out [T, Cp] f32, zero beyond D
            q, scale, sums as quantize_rows has them
    """
    for t in prange(x.shape[0]):
        if added.shape[0]:
            add_row(added[t], x[t])
        rms_norm_quantized_row(x[t], weight, eps, out[t], q[t], scale[t], sums[t])


@inner
def add_row(y, x):
    """x += y."""
    for i in range(x.size):
        x[i] += y[i]


@inner
def rms_norm_quantized_row(x, weight, eps, out, q, scale, sums):
    """One row, not widened."""
    rms_norm_row(x, weight, eps, out)
    out[x.size :] = np.float32(0)
    for g in range(out.size // GROUP):
        quantize_group(out, g, q, scale, sums)


@inner
def rms_norm_row(x, weight, eps, out):
    """One contiguous row: the same bits whatever kernel it is part of."""
    factor, whole = inverse_rms(x, eps), x.size // _STEP * _STEP
    for i in range(0, whole, _STEP):
        scaled = mul(load_f32(x, i, _STEP), splat_f32(factor, _STEP))
        store_f32(out, i, mul(scaled, load_f32(weight, i, _STEP)))
    for i in range(whole, x.size):
        store_f32(out, i, mul(mul(load_f32(x, i, 1), splat_f32(factor, 1)), load_f32(weight, i, 1)))


@inner
def inverse_rms(row, eps):
    """1 / sqrt(mean(row^2) + eps), summed in float64.

    Shapes: row [D] f32, contiguous
    """
    total, whole = 0.0, row.size // _STEP * _STEP
    for i in range(0, whole, _STEP):
        total = add_squares(total, load_f32(row, i, _STEP))
    for i in range(whole, row.size):
        total = add_squares(total, load_f32(row, i, 1))
    return np.float32(1.0 / np.sqrt(total / row.size + eps))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """out[t] = weight * (x[t] - mean) / sqrt(variance + eps) + bias; out may be x.

    Shapes: x, out [T, D] f32 · weight, bias [D] f32
    """
    _layer_norm(np.ascontiguousarray(x), weight, bias, np.float32(eps), out)


@kernel
def _layer_norm(x, weight, bias, eps, out):
    for t in range(x.shape[0]):
        mean = 0.0
        for i in range(x.shape[1]):
            mean += np.float64(x[t, i])
        mean /= x.shape[1]
        variance = 0.0
        for i in range(x.shape[1]):
            variance += (np.float64(x[t, i]) - mean) ** 2
        scale = 1.0 / np.sqrt(variance / x.shape[1] + eps)
        for i in range(x.shape[1]):
            out[t, i] = np.float32((x[t, i] - mean) * scale) * weight[i] + bias[i]
