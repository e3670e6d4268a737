"""RMSNorm."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.norm import rms_norm


class RMSNorm:
    """weight * x / rms(x); a family with zero-centred weights adds the 1 when it builds the layer."""

    __slots__ = ("eps", "weight")

    def __init__(self, weight: np.ndarray, eps: float) -> None:
        self.weight = weight
        self.eps = np.float32(eps)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Shapes: x [T, D] f32 -> [T, D] f32, the mean taken over D."""
        out = np.empty_like(x)
        rms_norm(x, self.weight, self.eps, out)
        return out
