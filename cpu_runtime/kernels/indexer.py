"""The selection of DeepSeek Sparse Attention: every earlier position gets a score, and the best ones are attended to.

DeepSeek-AI, "DeepSeek-V3.2" (2025). Scores are cheap: a few small heads, one key for all of them.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.rows import MANY, dot_tile, tile_positions, up, widen
from cpu_runtime.kernels.share import new_counter, take
from quant.jit import inner, kernel, parallel_kernel, prange

PART = 128  # positions that a thread takes at once
_ZERO = np.float32(0)
_TOP_BIT, _ALL_BITS = np.uint32(1 << 31), np.uint32(0xFFFFFFFF)


def index_scores(q: np.ndarray, weights: np.ndarray, pages: np.ndarray, positions: int, out: np.ndarray) -> None:
    """out[t, s] = sum over heads of weights[t, h] * max(0, q[t, h] . keys[s]), for s < positions.

    Shapes: q [T, H, d] f32 · weights [T, H] f32 · pages [P, 1, PAGE, d] f16 or f32 · out [T, positions] f32
    """
    stored = (pages.view(np.uint16) if pages.dtype == np.float16 else pages).reshape(-1)
    _index_scores(q, weights, stored, positions, out)


@parallel_kernel
def _index_scores(q, weights, keys, positions, out):
    tokens, heads, size = q.shape
    queries = np.zeros((tokens, up(heads, MANY), up(size, LANES)), np.float32)
    queries[:, :heads, :size] = q
    parts = (positions + PART - 1) // PART
    counter = new_counter()
    for _ in prange(min(parts, 64)):
        item = take(counter, 1)
        if item < parts:
            tile = np.empty((tile_positions(queries.shape[2], PART), queries.shape[2]), np.float32)
            scores = np.empty((queries.shape[1], tile.shape[0]), np.float32)
            total = np.empty(tile.shape[0], np.float32)
            while item < parts:
                last = min(PART * (item + 1), positions)
                for first in range(PART * item, last, tile.shape[0]):
                    count = min(tile.shape[0], last - first)
                    widen(keys, first * size, size, count, 0, size, tile)
                    for t in range(tokens):
                        dot_tile(queries[t], queries.shape[1], tile, scores, 0)
                        total[:] = _ZERO
                        for h in range(heads):
                            _add_positive(scores[h], weights[t, h], total)
                        out[t, first : first + count] = total[:count]
                item = take(counter, 1)


@inner
def _add_positive(scores, weight, total):
    for s in range(total.size):
        total[s] += weight * (scores[s] if scores[s] > _ZERO else _ZERO)


@kernel
def top_positions(scores, k, out):
    """out = the k positions with the largest scores, ascending; the lower position first among equals.

    Shapes: scores [S] f32, S >= k · out [k] i64
    """
    # The k-th largest score is found byte by byte, on integers that are ordered as the floats are.
    prefix, known, wanted = np.uint32(0), np.uint32(0), k
    counts = np.empty(256, np.int64)
    for shift in (24, 16, 8, 0):
        counts[:] = 0
        for s in range(scores.size):
            bits = _ordered(scores[s])
            if (bits & known) == prefix:
                counts[(bits >> np.uint32(shift)) & np.uint32(255)] += 1
        byte = 255
        while counts[byte] < wanted:
            wanted -= counts[byte]
            byte -= 1
        prefix |= np.uint32(byte) << np.uint32(shift)
        known |= np.uint32(255) << np.uint32(shift)
    # All above it, and the first `wanted` that equal it.
    n = 0
    for s in range(scores.size):
        bits = _ordered(scores[s])
        if bits > prefix or (bits == prefix and wanted > 0):
            out[n] = s
            n += 1
            if bits == prefix:
                wanted -= 1


@inner
def _ordered(x):
    """An unsigned integer that grows with the float32; -0 counts as 0."""
    bits = np.uint32(0) if x == _ZERO else np.float32(x).view(np.uint32)
    return np.uint32(bits ^ _ALL_BITS) if bits & _TOP_BIT else np.uint32(bits | _TOP_BIT)
