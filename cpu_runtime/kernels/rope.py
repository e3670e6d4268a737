"""Rotary position embedding: each pair of a head's dimensions turns by an angle proportional to the position.

Su, Lu, Pan, Murtadha, Wen and Liu, "RoFormer" (2021). Families differ in which dimensions form a pair.
"""

from __future__ import annotations

import numpy as np

from quant.jit import kernel


def rotate_half_split(heads: np.ndarray, start: int, inv_freq: np.ndarray) -> None:
    """Turn pairs (i, i + n/2) of the first n = 2 * len(inv_freq) dimensions, in place; the others pass.

    Shapes: heads [T, H, d] f32 at positions start .. start + T - 1 · inv_freq [n/2] f32, radians a token
    """
    pairs = np.arange(inv_freq.size)
    _rotate(heads, start, inv_freq, pairs, pairs + inv_freq.size)


def rotate_interleaved(heads: np.ndarray, start: int, inv_freq: np.ndarray) -> None:
    """Turn pairs (2i, 2i + 1) of the first n = 2 * len(inv_freq) dimensions, in place; the others pass.

    Shapes: heads [T, H, d] f32 at positions start .. start + T - 1 · inv_freq [n/2] f32, radians a token
    """
    pairs = np.arange(inv_freq.size)
    _rotate(heads, start, inv_freq, 2 * pairs, 2 * pairs + 1)


@kernel
def _rotate(heads, start, inv_freq, first, second):
    tokens, n_heads, _ = heads.shape
    for t in range(tokens):
        for i in range(inv_freq.size):
            # The product is a float32, as in the checkpoints' own code; far from 0 a float64 one would differ.
            angle = np.float64(np.float32(start + t) * inv_freq[i])
            cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
            for h in range(n_heads):
                p, q = heads[t, h, first[i]], heads[t, h, second[i]]
                heads[t, h, first[i]] = p * cos - q * sin
                heads[t, h, second[i]] = q * cos + p * sin
