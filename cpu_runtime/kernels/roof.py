"""What a machine can do at most, as loops with nothing else in them: reading memory, int8 and float32 products."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES, ZEN, ahead
from cpu_runtime.kernels.integers import dot, pair_dot
from cpu_runtime.kernels.share import new_counter, take
from cpu_runtime.kernels.upcoming import ask_before
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    load_i8,
    load_i16,
    read_only,
    splat4,
    splat_f32,
    splat_i16,
    splat_i32,
    store_f32,
    sum_of,
    to_f32,
)
from quant.formats import LINE
from quant.jit import inner, parallel_kernel, prange, threads

BYTES = 4 * LANES  # of weights, that one dot of LANES int32 lanes reads
ROWS = 2 * LANES  # of a block: two vectors of lanes
TOKENS = 4  # of a block
_SHORTS, _PAIRS = LINE // 2, LINE // 4  # int16 of a cache line, and their pairs
_AHEAD = ahead(LINE, 0)
SLICES = 64  # of memory to be summed, which threads take one after another
WORDS = 16 * SLICES  # int64 that slices of two halves of whole lines have together, or a multiple of this
SUMS = 12  # float32 sums kept at once: more than a CPU has products under way


def sum_words(words, sums):
    """sums[n] = the sum of the n-th slice of the words, whose own sums stay within an int32.

    Shapes: words [W] i64, summed as int16 · sums [SLICES] f32, W a multiple of WORDS
    """
    _sum_words(threads(), words.view(np.uint8), sums)


@parallel_kernel
def _sum_words(n_threads, words, sums):
    w = read_only(words)
    counter = new_counter()
    for _ in prange(n_threads):
        _sum_slices(counter, w, sums)


@inner
def _sum_slices(counter, w, sums):
    """One thread's slices, each in two places at once, as products read tiles."""
    half, one = w.size // sums.size // 2, splat_i16(np.int16(1), _SHORTS)
    while True:
        n = take(counter, 1)
        if n >= sums.size:
            break
        a = b = splat_i32(0, _PAIRS)
        for at in range(2 * n * half, (2 * n + 1) * half, LINE):
            a = pair_dot(a, load_i16(w, _asked(w, at), _SHORTS), one)
            b = pair_dot(b, load_i16(w, _asked(w, at + half), _SHORTS), one)
        sums[n] = sum_of(to_f32(a)) + sum_of(to_f32(b))


@inner
def _asked(w, at):
    """`at`; Zen, where a sum is a tenth slower if it asks for lines, does so by itself."""
    return at if ZEN else ask_before(w, at, _AHEAD, _AHEAD + LINE)


@parallel_kernel
def int8_products(w, x, rounds, out):
    """out[n, t, r] = rounds times the sum over i of w[i / 4, r, i % 4] * x[t, i], for every n alike.

    Shapes: w [D/4, 2 LANES, 4] i8, not negative · x [4, D] i8 · out [N, 4, 2 LANES] f32; N is how many can run at once
    """
    for n in prange(out.shape[0]):
        for t in range(TOKENS):
            for row in range(ROWS):
                out[n, t, row] = np.float32(0)
        for _ in range(rounds):
            _block(w, x, out, n * TOKENS * ROWS)


@inner
def _block(w, x, out, o):
    """Eight sums of LANES rows in registers: each weight serves 4 tokens, each input 2 vectors of rows."""
    size = x.shape[1]
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = splat_i32(0, LANES)
    for i in range(0, size, 4):
        w0, w1 = load_i8(w, i * ROWS, BYTES), load_i8(w, i * ROWS + BYTES, BYTES)
        x0, x1 = splat4(x, i, LANES), splat4(x, size + i, LANES)
        x2, x3 = splat4(x, 2 * size + i, LANES), splat4(x, 3 * size + i, LANES)
        a0, a1 = dot(a0, w0, x0), dot(a1, w1, x0)
        b0, b1 = dot(b0, w0, x1), dot(b1, w1, x1)
        c0, c1 = dot(c0, w0, x2), dot(c1, w1, x2)
        d0, d1 = dot(d0, w0, x3), dot(d1, w1, x3)
    _add(out, o, a0, a1)
    _add(out, o + ROWS, b0, b1)
    _add(out, o + 2 * ROWS, c0, c1)
    _add(out, o + 3 * ROWS, d0, d1)


@inner
def _add(out, o, first, second):
    one = splat_f32(np.float32(1), LANES)
    store_f32(out, o, fma(to_f32(first), one, load_f32(out, o, LANES)))
    store_f32(out, o + LANES, fma(to_f32(second), one, load_f32(out, o + LANES, LANES)))


@parallel_kernel
def f32_products(start, x, y, rounds, out):
    """out[n] = start with x * y added `rounds` times, for every n alike; nothing but registers is used.

    Shapes: start [SUMS, LANES] f32 · x, y [LANES] f32 · out [N, SUMS, LANES] f32; N is how many can run at once
    """
    for n in prange(out.shape[0]):
        _add_products(start, x, y, rounds, out, n * SUMS * LANES)


@inner
def _add_products(start, x, y, rounds, out, o):
    u, v = load_f32(x, 0, LANES), load_f32(y, 0, LANES)
    a0, a1, a2 = load_f32(start, 0, LANES), load_f32(start, LANES, LANES), load_f32(start, 2 * LANES, LANES)
    b0, b1, b2 = load_f32(start, 3 * LANES, LANES), load_f32(start, 4 * LANES, LANES), load_f32(start, 5 * LANES, LANES)
    c0, c1, c2 = load_f32(start, 6 * LANES, LANES), load_f32(start, 7 * LANES, LANES), load_f32(start, 8 * LANES, LANES)
    d0, d1, d2 = (
        load_f32(start, 9 * LANES, LANES),
        load_f32(start, 10 * LANES, LANES),
        load_f32(start, 11 * LANES, LANES),
    )
    for _ in range(rounds):
        a0, a1, a2 = fma(u, v, a0), fma(u, v, a1), fma(u, v, a2)
        b0, b1, b2 = fma(u, v, b0), fma(u, v, b1), fma(u, v, b2)
        c0, c1, c2 = fma(u, v, c0), fma(u, v, c1), fma(u, v, c2)
        d0, d1, d2 = fma(u, v, d0), fma(u, v, d1), fma(u, v, d2)
    _store3(out, o, a0, a1, a2)
    _store3(out, o + 3 * LANES, b0, b1, b2)
    _store3(out, o + 6 * LANES, c0, c1, c2)
    _store3(out, o + 9 * LANES, d0, d1, d2)


@inner
def _store3(out, o, first, second, third):
    store_f32(out, o, first)
    store_f32(out, o + LANES, second)
    store_f32(out, o + 2 * LANES, third)
