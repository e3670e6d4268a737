"""A block of bf16 or f32 times float activations; shapes as in `tile.py`."""

from __future__ import annotations

from typing import Any

from cpu_runtime.kernels.vectors import (
    fma,
    load_bf16,
    load_f32,
    splat_f32,
    store_f32,
)
from quant.formats import BLOCK, ROWS
from quant.jit import inner


def _adders(load: Any, width: int) -> tuple[Any, Any]:
    """The functions below for weights that `load` reads, `width` bytes each."""

    @inner
    def add_one(w, at, x, t, i, out, o):
        total = load_f32(out, o, ROWS)
        for c in range(BLOCK):
            total = fma(load(w, at + width * ROWS * c, ROWS), splat_f32(x[t, i + c], ROWS), total)
        store_f32(out, o, total)

    @inner
    def add_four(w, at, x, t0, t1, t2, t3, i, out, o):
        size = out.shape[1]
        a, b = load_f32(out, o, ROWS), load_f32(out, o + size, ROWS)
        c, d = load_f32(out, o + 2 * size, ROWS), load_f32(out, o + 3 * size, ROWS)
        for k in range(BLOCK):
            weights = load(w, at + width * ROWS * k, ROWS)
            a = fma(weights, splat_f32(x[t0, i + k], ROWS), a)
            b = fma(weights, splat_f32(x[t1, i + k], ROWS), b)
            c = fma(weights, splat_f32(x[t2, i + k], ROWS), c)
            d = fma(weights, splat_f32(x[t3, i + k], ROWS), d)
        store_f32(out, o, a)
        store_f32(out, o + size, b)
        store_f32(out, o + 2 * size, c)
        store_f32(out, o + 3 * size, d)

    return add_one, add_four


# add_*_block(w, at, x, t, i, out, o): out[o : o + 16] += block · the 64 activations of token t from input i.
# add_*_blocks(w, at, x, t0, .., t3, i, out, o): the same of four tokens, to four rows of out from the one at o on.
add_bf16_block, add_bf16_blocks = _adders(load_bf16, 2)
add_f32_block, add_f32_blocks = _adders(load_f32, 4)
