"""Rotary position embedding: each pair of a head's dimensions turns by an angle proportional to the position.

Su, Lu, Pan, Murtadha, Wen and Liu, "RoFormer" (2021). Families differ in which dimensions form a pair.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, kernel


def rotate(
    heads: np.ndarray,
    start: int,
    inv_freq: np.ndarray,
    step: int,
    apart: int,
    magnitude: np.float32,
    workspace: Workspace = NEW,
) -> None:
    """Turn pairs of dimensions by inv_freq[i] radians a token, in place; dimensions that are in no pair pass.

    Pair i is of the dimensions step * i and step * i + apart. What was turned is multiplied by `magnitude`.
    Shapes: heads [T, H, d] f32 at positions start .. start + T - 1 · inv_freq [n/2] f32
    """
    _rotate(heads, start, inv_freq, step, apart, magnitude, workspace.spare(2 * inv_freq.size))


@kernel
def _rotate(heads, start, inv_freq, step, apart, magnitude, spare):
    for t in range(heads.shape[0]):
        cos, sin = angles(start + t, inv_freq, spare)
        turn(heads[t], cos, sin, step, apart, magnitude)


@inner
def angles(position, inv_freq, spare):
    """(cosines, sines) of what pairs are turned by at a position, [n/2] f32, in the first n of spare numbers."""
    n = inv_freq.size
    cos, sin = spare[:n], spare[n : 2 * n]
    for i in range(inv_freq.size):
        # The product is a float32, as in the checkpoints' own code; far from 0 a float64 one would differ.
        angle = np.float64(np.float32(position) * inv_freq[i])
        cos[i], sin[i] = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos, sin


@inner
def turn(heads, cos, sin, step, apart, magnitude):
    """The pairs of each of one token's heads: [H, d] f32."""
    for h in range(heads.shape[0]):
        head = heads[h]
        if step == 1:  # known to be, the loop becomes vector code
            _turn_pairs(head, cos, sin, 1, apart, magnitude)
        else:
            _turn_pairs(head, cos, sin, step, apart, magnitude)


@inner
def _turn_pairs(head, cos, sin, step, apart, magnitude):
    for i in range(cos.size):
        p, q = head[step * i], head[step * i + apart]
        head[step * i] = (p * cos[i] - q * sin[i]) * magnitude
        head[step * i + apart] = (q * cos[i] + p * sin[i]) * magnitude
