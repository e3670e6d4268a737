"""Weights into the tiles of any format, also of one that only copies what a source has."""

from __future__ import annotations

import numpy as np

from quant.formats import ENCODABLE, FORMATS, tiles
from quant.pack import pack_k4
from tests.reference_formats import int4_matrix


def packed(name: str, weights: np.ndarray) -> np.ndarray:
    """[R, C] f32 -> [ceil(R / 16), tile_bytes] u8."""
    return ENCODABLE[name].pack(weights) if name in ENCODABLE else copied(*int4_matrix(weights))


def copied(words: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """A source's int4 matrix, words [R, C/8] i32 and scales [R, C/32] u16 -> k4 tiles; ValueError if refused."""
    out = np.zeros((tiles(len(words)), FORMATS["k4"].tile_bytes(8 * words.shape[1])), np.uint8)
    if not pack_k4(words.view(np.uint8), scales, out):
        raise ValueError("a weight may not be finite")
    return out
