"""Rows of made-up weights in GGML's formats: random around zero, with a given standard deviation, all finite."""

from __future__ import annotations

from math import prod

import numpy as np

Q8_0, Q4_K = "Q8_0", "Q4_K"
F32, BF16 = "F32", "BF16"
# A format's (weights, bytes) of a block.
BLOCKS = {F32: (1, 4), BF16: (1, 2), Q8_0: (32, 34), Q4_K: (256, 144)}


def nbytes(form: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in a format, rows along the last axis; a row must be whole blocks."""
    weights, size = BLOCKS[form]
    assert shape[-1] % weights == 0, f"a row of {shape[-1]} weights is not whole blocks of {weights}"
    return prod(shape) // weights * size


def rows(form: str, count: int, cols: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    """`count` rows of `cols` weights: -> [count, bytes of a row] u8."""
    return {F32: _f32, BF16: _bf16, Q8_0: _q8_0, Q4_K: _q4_k}[form](count, cols, deviation, random)


def _f32(count: int, cols: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    drawn = random.standard_normal((count, cols), np.float32) * np.float32(deviation)
    return drawn.view(np.uint8)


def _bf16(count: int, cols: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(_f32(count, cols, deviation, random).view(np.uint16)[:, 1::2]).view(np.uint8)


def _q8_0(count: int, cols: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    """Blocks of a scale d and 32 codes: w = d * code. Uniform codes deviate by 73.6."""
    blocks = np.empty((count, cols // 32, 34), np.uint8)
    blocks[..., :2] = _half(deviation / 73.6)
    blocks[..., 2:] = random.integers(-127, 128, (count, cols // 32, 32), np.int8).view(np.uint8)
    return blocks.reshape(count, -1)


def _q4_k(count: int, cols: int, deviation: float, random: np.random.Generator) -> np.ndarray:
    """Blocks of d, dmin, packed 6-bit scales and minima, 128 bytes of codes: w = d * scale * code - dmin * minimum.

    Every scale is 4, every minimum 30 and dmin is d, so that w = 4 d (code - 7.5); uniform codes deviate by 4.61.
    """
    blocks = np.empty((count, cols // 256, 144), np.uint8)
    blocks[..., :2] = blocks[..., 2:4] = _half(deviation / (4 * 4.61))
    blocks[..., 4:8] = 4  # scales 0-3, and above them the upper bits of scales 4-7
    blocks[..., 8:12] = 30 | 1 << 6  # minima 0-3, and above them the upper bits of minima 4-7
    blocks[..., 12:16] = 4 | (30 & 15) << 4  # the lower bits of scales and minima 4-7
    blocks[..., 16:] = random.integers(0, 256, (count, cols // 256, 128), np.uint8)
    return blocks.reshape(count, -1)


def _half(value: float) -> np.ndarray:
    return np.array([value], np.float16).view(np.uint8)
