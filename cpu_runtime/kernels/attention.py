"""Causal attention of grouped query heads over pages of keys and values.

A page holds 256 positions and gives each query head a partial answer - the largest score, the sum of
exp(score - largest), the values weighted so - and the partial answers of a token are joined in order of position.
Pages start at fixed positions, so a token's answer is the same bits whether it comes alone or among others.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.exponential import exp
from cpu_runtime.kernels.pages import PAGE, as_stored
from cpu_runtime.kernels.reductions import larger, largest_of
from cpu_runtime.kernels.rows import (
    FEW,
    FEW_ROWS,
    MANY,
    PAIR,
    STEP,
    STRIP,
    ask_for_dots,
    ask_for_mix,
    dot_few,
    dot_tile,
    laid_out,
    mix_few,
    mix_tile,
    scaled_copy,
    tile_numbers,
    tile_positions,
    up,
    widen,
)
from cpu_runtime.kernels.share import new_counter, take
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    splat_f32,
    sum_of,
)
from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, parallel_kernel, prange, threads

TILE = 32  # positions widened to float32 at once, at most
_FEWEST_ROWS, _MOST_ROWS = 12, 96  # (token, query head) pairs that share a reading of a page
_PARTS = 16  # that the work is cut in at least, where it is little
# Numbers that wait to be joined: as many as stay in a cache, or of as many tokens as share a page, up to 16 MB of
# them, but for a token that needs more alone.
_CACHED_FLOATS, _MOST_FLOATS = 1 << 20, 4 << 20
_ZERO, _ONE = np.float32(0), np.float32(1)
_MASKED = np.float32(-np.inf)


def attend(
    q: np.ndarray,
    k_pages: np.ndarray,
    v_pages: np.ndarray,
    start: int,
    scale: np.float32,
    out: np.ndarray,
    workspace: Workspace = NEW,
) -> None:
    """out[t, h] = softmax(scale * q[t, h] . keys) . values over positions 0 .. start + t.

    Shapes: q [T, H, dk] f32 · k_pages [P, K, PAGE, dk], v_pages [P, K, PAGE, at least dv] f32, or f16 or its bits
            out [T, H, dv] f32; query head h reads key/value head h // (H / K), a value is the first dv of its row
    """
    tokens, heads, size = out.shape
    kv_heads, pages = k_pages.shape[1], -(-(start + tokens) // PAGE)
    wave = _wave(tokens, heads * pages * size, _MOST_ROWS * kv_heads // heads)
    rows = min(max(wave * heads * pages // _PARTS, _FEWEST_ROWS), _MOST_ROWS)
    desk, workers = _desk(rows, q.shape[2], size), threads()
    spare = workspace.spare(workers * desk + wave * heads * pages * (size + 2))
    _attend(workers, desk, wave, rows, q, as_stored(k_pages), as_stored(v_pages), start, scale, spare, out)


@parallel_kernel
def _attend(workers, desk, wave, most_rows, q, k_pages, v_pages, start, scale, spare, out):
    """The partial answers of a wave of tokens, as many as there is room for, then their sums."""
    keys, values = k_pages.reshape(-1), v_pages.reshape(-1)
    kv_heads, strides = k_pages.shape[1], (k_pages.shape[3], v_pages.shape[3])
    tokens, heads, size = out.shape
    pages = (start + tokens + PAGE - 1) // PAGE
    rows = wave * heads * pages
    desks, parts = laid_out(spare, workers, desk)
    answer = parts[: rows * size].reshape((wave, heads, pages, size))
    largest = parts[rows * size : rows * (size + 1)].reshape((wave, heads, pages))
    total = parts[rows * (size + 1) : rows * (size + 2)].reshape((wave, heads, pages))
    for t in range(0, tokens, wave):
        n = min(wave, tokens - t)
        items, block, group = _division(n, heads // kv_heads, most_rows)
        items *= pages * kv_heads
        counter = new_counter()
        for worker in prange(min(items, workers)):
            _attend_pages(
                desks[worker], counter, items, block, group, q[t : t + n], keys, values, kv_heads, strides, start + t,
                scale, answer[:n], largest[:n], total[:n],
            )  # fmt: skip
        for item in prange(n * heads):
            _join(item // heads, item % heads, start + t, answer, largest, total, out[t : t + n])


def _wave(tokens: int, floats: int, sharing: int) -> int:
    """How many tokens are computed before their answers of so many floats are joined; `sharing` read a page at once."""
    return max(1, min(tokens, max(_CACHED_FLOATS // floats, min(_MOST_FLOATS // floats, sharing))))


@cache
def _desk(rows: int, size: int, value_size: int) -> int:
    """Numbers that `_attend_pages` lays out for at most so many rows, whole cache lines of them."""
    wide, value_wide = size + LANES, value_size + STEP
    numbers = (rows + MANY * FEW) * (wide + PAGE + value_wide) + tile_numbers(wide) + tile_numbers(value_wide)
    return -(-numbers // LANES) * LANES


@inner
def _division(tokens, share, most_rows):
    """(parts that a page's rows are read in, query heads of a part, tokens of a part)."""
    block = split(share, most_rows)
    group = max(1, min(tokens, most_rows // block))
    return (tokens + group - 1) // group * ((share + block - 1) // block), block, group


@inner
def _attend_pages(
    desk, counter, items, block, group, q, keys, values, kv_heads, strides, start, scale, answer, largest, total
):
    """One thread's partial answers: of some tokens and query heads to a page they can see.

    Shapes: desk [n] f32, this thread's · answer [T, H, pages, dv] f32 · largest, total [T, H, pages] f32
    """
    tokens, heads, size = q.shape
    pages, value_size = answer.shape[2], answer.shape[3]
    k_stride, v_stride = strides
    share = heads // kv_heads
    blocks, groups = (share + block - 1) // block, (tokens + group - 1) // group
    parts = blocks * groups  # items that read one head of a page
    few = block * group <= FEW_ROWS and size % LANES == 0 and value_size % PAIR == 0
    item = take(counter, 1)
    if item >= items:
        return
    rows = up(min(tokens, group) * block, FEW if few else MANY)
    queries, desk = laid_out(desk, rows, up(size, LANES))
    scores, desk = laid_out(desk, rows, PAGE)
    mixed, desk = laid_out(desk, rows, up(value_size, PAIR if few else STEP))
    columns = min(mixed.shape[1], STRIP)
    k_tile, desk = laid_out(desk, tile_positions(queries.shape[1], TILE), queries.shape[1])
    v_tile, desk = laid_out(desk, tile_positions(columns, TILE), columns)
    queries[:] = _ZERO
    while item < items:
        place = item // parts
        page, kv_head = place // kv_heads, place % kv_heads
        token, b = item // blocks % groups * group, item % blocks
        head, n = kv_head * share + b * block, min(block, share - b * block)
        last = min(token + group, tokens)
        first = page * PAGE
        seen = min(PAGE, start + last - first)
        if seen <= 0:
            item = take(counter, 1)
            continue
        # Rows are (token, query head) pairs.
        count = (last - token) * n
        for row in range(count):
            at = ((token + row // n) * heads + head + row % n) * size
            scaled_copy(q, at, size, scale, queries, row * queries.shape[1])
        rows = up(count, FEW if few else MANY)
        k, v = place * PAGE * k_stride, place * PAGE * v_stride
        if few:
            dot_few(queries, rows, keys, k, k_stride, seen, scores)
        else:
            _dot_page(queries, rows, keys, k, k_stride, size, seen, k_tile, scores)
        item = take(counter, 1)
        if few:  # so that memory is at work while scores become weights, and when the next item begins
            ask_for_mix(values, v, v_stride, seen)
            ask_for_dots(keys, item // parts * PAGE * k_stride, k_stride)
        for row in range(rows):
            t, h = token + row // n, head + row % n
            visible = max(0, min(seen, start + t + 1 - first)) if row < count else 0
            peak, weight = _exponentials(scores, row, visible, seen)
            if row < count:
                largest[t, h, page], total[t, h, page] = peak, weight
        mixed[:rows] = _ZERO
        if few:
            mix_few(scores, rows, values, v, v_stride, seen, mixed)
        else:
            _mix_page(scores, rows, values, v, v_stride, value_size, seen, v_tile, mixed)
        for row in range(count):
            to = (((token + row // n) * heads + head + row % n) * pages + page) * value_size
            scaled_copy(mixed, row * mixed.shape[1], value_size, _ONE, answer, to)


@inner
def split(n, most):
    """The size of the parts, all but the last equally large, in which n is cut so that none is above `most`."""
    parts = (n + most - 1) // most
    return (n + parts - 1) // parts


@inner
def _dot_page(queries, rows, keys, at, stride, size, seen, tile, scores):
    """scores[r, p] = queries[r] . key p for a page's first `seen` positions, and 0 for those up to a whole tile."""
    step = tile.shape[0]
    for p in range(0, seen, step):
        widen(keys, at + p * stride, stride, min(step, seen - p), 0, size, tile)
        dot_tile(queries, rows, tile, scores, p)


@inner
def _mix_page(weights, rows, values, at, stride, size, seen, tile, mixed):
    """mixed[r] += sum over p of weights[r, p] * value p of a page's first `seen` positions."""
    step, width = tile.shape
    for first in range(0, mixed.shape[1], width):
        for p in range(0, seen, step):
            widen(values, at + p * stride, stride, min(step, seen - p), first, min(width, size - first), tile)
            mix_tile(weights, rows, p, tile, mixed, first)


@inner
def _join(t, h, start, answer, largest, total, out):
    """Weigh a token's partial answers by exp(their largest score) and divide by the sum of all exponentials."""
    pages = (start + t) // PAGE + 1
    peak = largest[t, h, 0]
    for page in range(1, pages):
        peak = max(peak, largest[t, h, page])
    denominator = _ZERO
    out[t, h] = _ZERO
    for page in range(pages):
        weight = exp(largest[t, h, page] - peak)
        denominator += weight * total[t, h, page]
        _add_product(weight, answer[t, h, page], out[t, h])
    _divide(out[t, h], denominator)


@inner
def _add_product(weight, x, out):
    for i in range(out.size):
        out[i] += weight * x[i]


@inner
def _divide(x, divisor):
    for i in range(x.size):
        x[i] /= divisor


@inner
def _exponentials(scores, row, visible, seen):
    """Make the first `visible` scores exp(score - largest) and the others 0; return (largest, their sum)."""
    mine = scores[row]
    whole = up(visible, PAIR)
    mine[visible:whole] = _MASKED
    mine[whole : up(seen, TILE)] = _ZERO
    at = row * PAGE
    best = other = splat_f32(_MASKED, LANES)
    for p in range(0, whole, PAIR):
        best = larger(best, load_f32(scores, at + p, LANES))
        other = larger(other, load_f32(scores, at + p + LANES, LANES))
    largest = largest_of(larger(best, other))
    _exp_less(mine[:whole], largest)
    one = splat_f32(_ONE, LANES)
    total = further = splat_f32(_ZERO, LANES)
    for p in range(0, whole, PAIR):
        total = fma(load_f32(scores, at + p, LANES), one, total)
        further = fma(load_f32(scores, at + p + LANES, LANES), one, further)
    return largest, sum_of(fma(total, one, further))


@inner
def _exp_less(x, largest):
    for i in range(x.size):
        x[i] = exp(x[i] - largest)
