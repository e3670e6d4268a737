"""Rotary position embedding, half-split pairs (i, i + n/2) on the first n of a head's dimensions."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.rope import rotate_half_split


class HalfSplitRope:
    """Rotates heads in place by angle pos * theta^(-2i/n)."""

    __slots__ = ("inv_freq",)

    def __init__(self, theta: float, n_rotated: int) -> None:
        exponents = np.arange(0, n_rotated, 2, dtype=np.float64) / n_rotated
        self.inv_freq = (theta**-exponents).astype(np.float32)

    def __call__(self, heads: np.ndarray, start: int) -> None:
        """Shapes: heads [T, H, d] f32 at positions start .. start + T - 1; changed in place."""
        rotate_half_split(heads, start, self.inv_freq)
