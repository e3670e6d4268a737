"""Rotary position embedding: each pair of a head's dimensions turns by an angle proportional to the position.

Su, Lu, Pan, Murtadha, Wen and Liu, "RoFormer" (2021). Families differ in which dimensions form a pair.
"""

from __future__ import annotations

import numpy as np

from quant.jit import inner, kernel


@kernel
def rotate(heads, start, inv_freq, first, second, magnitude):
    """Turn the pairs of dimensions (first[i], second[i]) by inv_freq[i] radians a token, in place; the others pass.

    What was turned is multiplied by `magnitude`.
    Shapes: heads [T, H, d] f32 at positions start .. start + T - 1 · inv_freq [n/2] f32 · first, second [n/2] i64
    """
    for t in range(heads.shape[0]):
        rotate_token(heads[t], start + t, inv_freq, first, second, magnitude)


@inner
def rotate_token(heads, position, inv_freq, first, second, magnitude):
    """The heads of one token: [H, d] f32."""
    for i in range(inv_freq.size):
        # The product is a float32, as in the checkpoints' own code; far from 0 a float64 one would differ.
        angle = np.float64(np.float32(position) * inv_freq[i])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        for h in range(heads.shape[0]):
            p, q = heads[h, first[i]], heads[h, second[i]]
            heads[h, first[i]] = (p * cos - q * sin) * magnitude
            heads[h, second[i]] = (q * cos + p * sin) * magnitude
