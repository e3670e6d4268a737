"""Causal attention of grouped query heads over pages of keys and values.

A page holds 256 positions and gives each query head a partial answer - the largest score, the sum of
exp(score - largest), the values weighted so - and the partial answers of a token are joined in order of position.
Pages start at fixed positions, so a token's answer is the same bits whether it comes alone or among others.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.exponential import exp
from quant.jit import kernel, parallel_kernel, prange

PAGE = 256  # positions
_TILE = 32  # positions widened to float32 at once: 32 KB of keys of 256 numbers
_GROUP = 4  # tokens that share a reading of a page
_SHARE = 16  # query heads that share a reading of a page
_PARTIAL_FLOATS = 4 << 20  # at most this many numbers (16 MB) wait to be joined, unless one token alone needs more
_FLOAT16_MAX = np.float32(65504)
_ZERO = np.float32(0)
_MASKED = np.float32(-np.inf)
# A float16 moved to a float32's place is 2**112 too small: the exponents' biases are 15 and 127.
_SIGN, _MAGNITUDE, _REBIAS = np.uint32(0x8000), np.uint32(0x7FFF), np.float32(2.0**112)
_SIGN_SHIFT, _SHIFT = np.uint32(16), np.uint32(13)


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
            # Rows are (token, query head) pairs, filled up to a multiple of 2: the products work on two at a time.
            rows = (last_token - first_token) * n_heads
            even = rows + rows % 2
            queries = np.zeros((even, size), np.float32)
            for row in range(rows):
                t, h = first_token + row // n_heads, first_head + row % n_heads
                for i in range(size):
                    queries[row, i] = q[t, h, i] * scale
            scores = np.empty((even, PAGE), np.float32)
            mixed = np.zeros((even, answer.shape[3]), np.float32)
            key_tile = np.empty((_TILE, size), np.float32)
            for p in range(0, seen, _TILE):
                widen(k_pages[page, kv_head, p : min(p + _TILE, seen)], key_tile)
                dot_rows(queries, key_tile, scores[:, p : p + _TILE])
            for row in range(rows):
                t, h = first_token + row // n_heads, first_head + row % n_heads
                visible = max(0, min(seen, start + t + 1 - first))
                largest[t, h, page], total[t, h, page] = _exponentials(scores[row], visible)
            value_tile = np.empty((_TILE, answer.shape[3]), np.float32)
            for p in range(0, seen, _TILE):
                widen(v_pages[page, kv_head, p : min(p + _TILE, seen)], value_tile)
                _mix_rows(scores[:, p : p + _TILE], value_tile, mixed)
            for row in range(rows):
                answer[first_token + row // n_heads, first_head + row % n_heads, page] = mixed[row]


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
def widen(rows, tile):
    """tile = the beginnings of the rows as float32; zeros below them.

    Shapes: rows [n <= tile rows, at least d] f32, or u16 holding float16 · tile [TILE, d] f32
    """
    for r in range(rows.shape[0]):
        for i in range(tile.shape[1]):
            tile[r, i] = _as_float32(rows[r, i])
    tile[rows.shape[0] :] = _ZERO


@kernel
def _as_float32(x):
    """A float32 itself; a finite float16 from its 16 bits."""
    if isinstance(x, np.float32):
        return x
    bits = np.uint32(x)
    magnitude = np.float32(np.uint32((bits & _MAGNITUDE) << _SHIFT).view(np.float32) * _REBIAS)
    return np.uint32(magnitude.view(np.uint32) | ((bits & _SIGN) << _SIGN_SHIFT)).view(np.float32)


@kernel
def dot_rows(queries, tile, scores):
    """scores[r, p] = queries[r] . tile[p], two queries and two positions at a time to load each number less often.

    Shapes: queries [even, d] f32 · tile [TILE, d] f32 · scores [even, TILE] f32
    """
    for r in range(0, queries.shape[0], 2):
        a, b = queries[r], queries[r + 1]
        for p in range(0, tile.shape[0], 2):
            x, y = tile[p], tile[p + 1]
            ax, ay, bx, by = _ZERO, _ZERO, _ZERO, _ZERO
            for i in range(tile.shape[1]):
                ax += a[i] * x[i]
                ay += a[i] * y[i]
                bx += b[i] * x[i]
                by += b[i] * y[i]
            scores[r, p], scores[r, p + 1], scores[r + 1, p], scores[r + 1, p + 1] = ax, ay, bx, by


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


@kernel
def _mix_rows(weights, tile, mixed):
    """mixed[r] += sum over p of weights[r, p] * tile[p], two rows and four positions at a time.

    Shapes: weights [even, TILE] f32 · tile [TILE, d] f32 · mixed [even, d] f32
    """
    for r in range(0, mixed.shape[0], 2):
        a, b = mixed[r], mixed[r + 1]
        for p in range(0, tile.shape[0], 4):
            x0, x1, x2, x3 = tile[p], tile[p + 1], tile[p + 2], tile[p + 3]
            a0, a1, a2, a3 = weights[r, p], weights[r, p + 1], weights[r, p + 2], weights[r, p + 3]
            b0, b1, b2, b3 = weights[r + 1, p], weights[r + 1, p + 1], weights[r + 1, p + 2], weights[r + 1, p + 3]
            for i in range(tile.shape[1]):
                a[i] += (a0 * x0[i] + a1 * x1[i]) + (a2 * x2[i] + a3 * x3[i])
                b[i] += (b0 * x0[i] + b1 * x1[i]) + (b2 * x2[i] + b3 * x3[i])
