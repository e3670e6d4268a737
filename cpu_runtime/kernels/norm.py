"""RMSNorm and LayerNorm, statistics in float64."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import GROUP, quantize_group
from quant.jit import inner, kernel, parallel_kernel, prange


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: np.float32, out: np.ndarray) -> None:
    """out[t] = weight * x[t] / sqrt(mean(x[t]^2) + eps); out may be x.

    Shapes: x, out [T, D] f32 · weight [D] f32
    """
    # One layout is one compiled loop: the sums of a row are then the same bits however many rows there are.
    _rms_norm(np.ascontiguousarray(x), weight, np.float32(eps), out)


@kernel
def _rms_norm(x, weight, eps, out):
    for t in range(x.shape[0]):
        _rms_norm_row(x[t], weight, eps, out[t])


@parallel_kernel
def rms_norm_quantized(x, weight, eps, out, q, scale, sums):
    """The same, and what `quantize_rows` makes of it: what stands between a block and its matrices.

    Shapes: x [T, D] f32 · weight [D] f32 · out [T, Cp] f32, zero beyond D · q, scale, sums as quantize_rows has them
    """
    for t in prange(x.shape[0]):
        _rms_norm_row(x[t], weight, eps, out[t])
        out[t, x.shape[1] :] = np.float32(0)
        for g in range(out.shape[1] // GROUP):
            quantize_group(out[t], g, q[t], scale[t], sums[t])


@inner
def _rms_norm_row(x, weight, eps, out):
    scale = inverse_rms(x, eps)
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i]


@inner
def inverse_rms(row, eps):
    """1 / sqrt(mean(row^2) + eps), summed in float64.

    Shapes: row [D] f32
    """
    total = 0.0
    for i in range(row.size):
        total += np.float64(row[i]) * np.float64(row[i])
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
