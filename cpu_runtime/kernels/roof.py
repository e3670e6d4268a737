"""What a machine can do at most, as loops with nothing else in them: reading memory, and int8 products in the cache."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.vectors import (
    dot,
    fma,
    load_f32,
    load_i8,
    read_only,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
)
from quant.jit import kernel, parallel_kernel, prange

BYTES = 4 * LANES  # of weights, that one dot of LANES int32 lanes reads
ROWS = 2 * LANES  # of a block: two vectors of lanes
TOKENS = 4  # of a block


@parallel_kernel
def sum_words(words, sums):
    """sums[n] = the sum of the n-th slice of the words; a slice is a whole number of them.

    Shapes: words [W] i64 · sums [S] i64, W a multiple of S
    """
    w = read_only(words)
    size = words.size // sums.size
    for n in prange(sums.size):
        total = np.int64(0)
        for i in range(n * size, (n + 1) * size):
            total += w[i]
        sums[n] = total


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


@kernel
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


@kernel
def _add(out, o, first, second):
    one = splat_f32(np.float32(1), LANES)
    store_f32(out, o, fma(to_f32(first), one, load_f32(out, o, LANES)))
    store_f32(out, o + LANES, fma(to_f32(second), one, load_f32(out, o + LANES, LANES)))
