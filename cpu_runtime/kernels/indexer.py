"""The selection of DeepSeek Sparse Attention: every earlier position gets a score, and the best ones are attended to.

DeepSeek-AI, "DeepSeek-V3.2" (2025). Scores are cheap: a few small heads, one key for all of them.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.rows import MANY, dot_tile, laid_out, tile_numbers, tile_positions, up, widen
from cpu_runtime.kernels.share import new_counter, take
from cpu_runtime.kernels.stack import zeros_on_stack
from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, kernel, parallel_kernel, prange, threads

PART = 128  # positions that a thread takes at once
_counts = zeros_on_stack(256, np.int64)  # of each value of a byte
_ZERO = np.float32(0)
_TOP_BIT, _ALL_BITS = np.uint32(1 << 31), np.uint32(0xFFFFFFFF)


def index_scores(
    q: np.ndarray,
    weights: np.ndarray,
    pages: np.ndarray,
    positions: int,
    out: np.ndarray,
    workspace: Workspace = NEW,
) -> None:
    """out[t, s] = sum over heads of weights[t, h] * max(0, q[t, h] . keys[s]), for s < positions.

    Shapes: q [T, H, d] f32 · weights [T, H] f32 · pages [P, 1, PAGE, d] f16 or f32 · out [T, positions] f32
    """
    stored = (pages.view(np.uint16) if pages.dtype == np.float16 else pages).reshape(-1)
    tokens, heads, size = q.shape
    heads, size = -(-heads // MANY) * MANY, -(-size // LANES) * LANES
    desk, workers = tile_numbers(size) + heads * PART + PART, threads()
    spare = workspace.spare(workers * desk + tokens * heads * size)
    _index_scores(workers, desk, q, weights, stored, positions, spare, out)


@parallel_kernel
def _index_scores(workers, desk, q, weights, keys, positions, spare, out):
    tokens, heads, size = q.shape
    desks, rest = laid_out(spare, workers, desk)
    queries = _widened(q, rest)
    parts = (positions + PART - 1) // PART
    counter = new_counter()
    for worker in prange(min(parts, workers)):
        item = take(counter, 1)
        if item < parts:
            tile, free = laid_out(desks[worker], tile_positions(queries.shape[2], PART), queries.shape[2])
            scores, free = laid_out(free, queries.shape[1], tile.shape[0])
            total = free[: tile.shape[0]]
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
def _widened(q, spare):
    """Queries of whole vectors, zeros around them; apart from what is parallel, or Numba would wake the threads."""
    tokens, heads, size = q.shape[0], up(q.shape[1], MANY), up(q.shape[2], LANES)
    queries = spare[: tokens * heads * size].reshape((tokens, heads, size))
    queries[:] = _ZERO
    queries[:, : q.shape[1], : q.shape[2]] = q
    return queries


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
    counts = _counts()
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
