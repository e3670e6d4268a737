"""Rotary position embedding: how fast each pair of dimensions turns, and which dimensions make a pair."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from cpu_runtime.kernels.rope import rotate
from cpu_runtime.workspace import NEW, Workspace


@dataclass(frozen=True)
class Frequencies:
    """Radians a token for each pair; `magnitude` multiplies what was rotated, `softmax` the scale of the scores.

    Shapes: inv_freq [n/2] f32.
    """

    inv_freq: np.ndarray
    magnitude: float = 1.0
    softmax: float = 1.0


def plain(theta: float, n_rotated: int) -> Frequencies:
    """theta^(-2i/n): Su et al., "RoFormer" (2021)."""
    return Frequencies(_inverse(theta, n_rotated).astype(np.float32))


def yarn(
    theta: float,
    n_rotated: int,
    *,
    factor: float,
    original: int,
    beta_fast: float,
    beta_slow: float,
    mscale: float | None,
    mscale_all_dim: float | None,
) -> Frequencies:
    """Slow pairs turn `factor` times slower, fast ones as before, those between partly; at every position.

    `original` is the window in tokens before it was widened; a pair counts as fast that turns `beta_fast` times in it.
    Peng, Quesnelle, Fan and Shippole, "YaRN" (2023); mscale as DeepSeek-V3 uses it.
    """

    def pair(turns: float) -> float:
        return n_rotated * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = max(math.floor(pair(beta_fast)), 0), min(math.ceil(pair(beta_slow)), n_rotated - 1)
    width = high - low if high != low else 0.001
    slowed = np.clip((np.arange(n_rotated // 2) - low) / width, 0, 1)
    inverse = _inverse(theta, n_rotated) * ((1 - slowed) + slowed / factor)

    def attention(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

    both = mscale is not None and mscale_all_dim is not None
    return Frequencies(
        inverse.astype(np.float32),
        magnitude=attention(mscale or 0) / attention(mscale_all_dim or 0) if both else attention(1),
        softmax=attention(mscale_all_dim) ** 2 if mscale_all_dim else 1.0,
    )


def _inverse(theta: float, n_rotated: int) -> np.ndarray:
    return np.asarray(theta ** -(np.arange(0, n_rotated, 2, dtype=np.float64) / n_rotated))


class Rope(ABC):
    """Rotates the first n dimensions of heads in place by angle position * inv_freq.

    `turn` is (inv_freq, step, apart, magnitude), as kernels take it.
    """

    __slots__ = ("frequencies", "turn")

    def __init__(self, frequencies: Frequencies) -> None:
        self.frequencies = frequencies
        places = self._places(frequencies.inv_freq.size)
        self.turn = (frequencies.inv_freq, *places, np.float32(frequencies.magnitude))

    def __call__(self, heads: np.ndarray, start: int, workspace: Workspace = NEW) -> None:
        """Shapes: heads [T, H, d] f32 at positions start .. start + T - 1; changed in place."""
        rotate(heads, start, *self.turn, workspace)

    @staticmethod
    @abstractmethod
    def _places(pairs: int) -> tuple[int, int]:
        """(dimensions from one pair to the next, those from a pair's first to its second)."""


class HalfSplitRope(Rope):
    """Dimensions i and i + n/2 make a pair (Qwen, MiniMax)."""

    @staticmethod
    def _places(pairs: int) -> tuple[int, int]:
        return 1, pairs


class InterleavedRope(Rope):
    """Dimensions 2i and 2i + 1 make a pair (DeepSeek, Kimi, GLM)."""

    @staticmethod
    def _places(pairs: int) -> tuple[int, int]:
        return 2, 1
