"""Causal attention of grouped query heads over pages of keys and values.

A page holds 256 positions and gives each query head a partial answer - the largest score, the sum of
exp(score - largest), the values weighted so - and the partial answers of a token are joined in order of position.
Pages start at fixed positions, so a token's answer is the same bits whether it comes alone or among others.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.exponential import exp
from cpu_runtime.kernels.rows import TILE, dot_rows, mix_rows, padded, whole_blocks, widen
from quant.jit import kernel, parallel_kernel, prange

PAGE = 256  # positions
_GROUP = 4  # tokens that share a reading of a page
_SHARE = 16  # query heads that share a reading of a page
_PARTIAL_FLOATS = 4 << 20  # at most this many numbers (16 MB) wait to be joined, unless one token alone needs more
_FLOAT16_MAX = np.float32(65504)
_ZERO = np.float32(0)
_MASKED = np.float32(-np.inf)


def write_rows(rows: np.ndarray, start: int, pages: np.ndarray) -> None:
    """Store the rows of T tokens at positions start .. start + T - 1.

    Shapes: rows [T, K, d] f32 · pages [P, K, PAGE, d] f16 or f32
    A number beyond float16 is stored as the largest one: an infinity would turn into NaN even where it is masked.
    """
    if pages.dtype == np.float16:
        rows = np.clip(rows, -_FLOAT16_MAX, _FLOAT16_MAX)
    at = 0
    while at < rows.shape[0]:
        page, first = divmod(start + at, PAGE)
        count = min(PAGE - first, rows.shape[0] - at)
        pages[page, :, first : first + count] = rows[at : at + count].transpose(1, 0, 2)
        at += count


def attend(
    q: np.ndarray, k_pages: np.ndarray, v_pages: np.ndarray, start: int, scale: np.float32, out: np.ndarray
) -> None:
    """out[t, h] = softmax(scale * q[t, h] . keys) . values over positions 0 .. start + t.

    Shapes: q [T, H, dk] f32 · k_pages [P, K, PAGE, dk], v_pages [P, K, PAGE, at least dv] f16 or f32
            out [T, H, dv] f32; query head h reads key/value head h // (H / K), a value is the first dv of its row
    """
    tokens, heads, size = out.shape
    if k_pages.dtype == np.float16:
        k_pages, v_pages = k_pages.view(np.uint16), v_pages.view(np.uint16)
    pages = (start + tokens + PAGE - 1) // PAGE
    wave = max(1, min(tokens, _PARTIAL_FLOATS // (heads * pages * size)))
    answer = np.empty((wave, heads, pages, size), np.float32)
    largest = np.empty((wave, heads, pages), np.float32)
    total = np.empty((wave, heads, pages), np.float32)
    for t in range(0, tokens, wave):
        some = slice(t, min(t + wave, tokens))
        _attend_pages(q[some], k_pages, v_pages, start + t, np.float32(scale), answer, largest, total)
        _join(start + t, answer, largest, total, out[some])


@parallel_kernel
def _attend_pages(q, k_pages, v_pages, start, scale, answer, largest, total):
    """The partial answers of every token to every page it can see.

    Shapes: answer [T, H, pages, dv] f32 · largest, total [T, H, pages] f32
    """
    tokens, heads, size = q.shape
    kv_heads = k_pages.shape[1]
    share = heads // kv_heads
    blocks = (share + _SHARE - 1) // _SHARE
    pages = (start + tokens + PAGE - 1) // PAGE
    groups = (tokens + _GROUP - 1) // _GROUP
    for item in prange(groups * pages * kv_heads * blocks):
        group, page = item // (pages * kv_heads * blocks), item // (kv_heads * blocks) % pages
        kv_head, block = item // blocks % kv_heads, item % blocks
        first_token = group * _GROUP
        last_token = min(first_token + _GROUP, tokens)
        first_head = kv_head * share + block * _SHARE
        n_heads = min(_SHARE, share - block * _SHARE)
        first = page * PAGE
        seen = min(PAGE, start + last_token - first)
        if seen > 0:
            # Rows are (token, query head) pairs.
            rows, value_size = (last_token - first_token) * n_heads, answer.shape[3]
            queries = np.zeros((whole_blocks(rows), padded(size)), np.float32)
            for row in range(rows):
                t, h = first_token + row // n_heads, first_head + row % n_heads
                for i in range(size):
                    queries[row, i] = q[t, h, i] * scale
            scores = np.zeros((queries.shape[0], PAGE), np.float32)
            tile = np.empty((TILE, queries.shape[1]), np.float32)
            for p in range(0, seen, TILE):
                widen(k_pages[page, kv_head, p : min(p + TILE, seen)], size, tile)
                dot_rows(queries, tile, scores, p)
            for row in range(rows):
                t, h = first_token + row // n_heads, first_head + row % n_heads
                visible = max(0, min(seen, start + t + 1 - first))
                largest[t, h, page], total[t, h, page] = _exponentials(scores[row], visible)
            mixed = np.zeros((queries.shape[0], padded(value_size)), np.float32)
            tile = np.empty((TILE, mixed.shape[1]), np.float32)
            for p in range(0, seen, TILE):
                widen(v_pages[page, kv_head, p : min(p + TILE, seen)], value_size, tile)
                mix_rows(scores, p, tile, mixed)
            for row in range(rows):
                answer[first_token + row // n_heads, first_head + row % n_heads, page] = mixed[row, :value_size]


@parallel_kernel
def _join(start, answer, largest, total, out):
    """Weigh each token's partial answers by exp(their largest score) and divide by the sum of all exponentials."""
    tokens, heads, size = out.shape
    for item in prange(tokens * heads):
        t, h = item // heads, item % heads
        pages = (start + t) // PAGE + 1
        peak = largest[t, h, 0]
        for page in range(1, pages):
            peak = max(peak, largest[t, h, page])
        denominator = _ZERO
        out[t, h] = _ZERO
        for page in range(pages):
            weight = exp(largest[t, h, page] - peak)
            denominator += weight * total[t, h, page]
            for i in range(size):
                out[t, h, i] += weight * answer[t, h, page, i]
        for i in range(size):
            out[t, h, i] /= denominator


@kernel
def _exponentials(scores, visible):
    """Replace the first `visible` scores by exp(score - largest) and the others by 0; return (largest, their sum)."""
    largest, total = _MASKED, _ZERO
    for p in range(visible):
        largest = max(largest, scores[p])
    for p in range(visible):
        scores[p] = exp(scores[p] - largest)
        total += scores[p]
    scores[visible:] = _ZERO
    return largest, total
