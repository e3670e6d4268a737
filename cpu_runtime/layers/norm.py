"""RMSNorm and LayerNorm."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.norm import layer_norm, rms_norm


class RMSNorm:
    """weight * x / rms(x); a family with zero-centred weights adds the 1 when it builds the layer."""

    __slots__ = ("eps", "weight")

    def __init__(self, weight: np.ndarray, eps: float) -> None:
        self.weight = weight
        self.eps = np.float32(eps)

    def in_place(self, x: np.ndarray) -> np.ndarray:
        """Shapes: x [T, D] f32, the mean taken over D -> x."""
        rms_norm(x, self.weight, self.eps, x)
        return x


NO_NORM = RMSNorm(np.zeros(0, np.float32), 0.0)  # for queries and keys that are rotated as they are


class LayerNorm:
    """weight * (x - mean) / deviation + bias."""

    __slots__ = ("bias", "eps", "weight")

    def __init__(self, weight: np.ndarray, bias: np.ndarray, eps: float) -> None:
        self.weight = weight
        self.bias = bias
        self.eps = np.float32(eps)

    def in_place(self, x: np.ndarray) -> np.ndarray:
        """Shapes: x [T, D] f32, mean and deviation taken over D -> x."""
        layer_norm(x, self.weight, self.bias, self.eps, x)
        return x
