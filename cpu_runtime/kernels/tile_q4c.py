"""A q4c tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`.

Stored blocks are of 128 inputs, the blocks that kernels count of 64: a tile may end with half a block of padding.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.integers import group_scales, high_nibbles, look_up_in, low_nibbles, spread
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.reductions import spread_f32
from cpu_runtime.kernels.tile_q4 import BYTES
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_f32,
    load_i8,
    mul,
    prefetch,
    splat_f32,
    store_f32,
    to_f32,
)
from quant.formats import LINE, Q4C, ROWS
from quant.jit import inner

_Q4C = Q4C()
Q4C_BLOCK, Q4C_UNIT, BITS = _Q4C.block_bytes, np.float32(2.0**-Q4C.exponent), Q4C.book_bits
Q4C_HEAD = _Q4C.head_bytes(1)  # one super-scale a row
HALF = 4 * LINE  # bytes of codes of 32 inputs, a group
AHEAD = 4 * Q4C_BLOCK  # bytes from the codes in work to those asked for
_product, _signed = product_of(_Q4C), look_up_in(Q4C.books, 0)


@inner
def one_q4c(w, at, blocks, q, scale, sums, t, out, o):
    """One token: out[o : o + 16] += tile · token t."""
    result = load_f32(out, o, ROWS)
    super_scale = mul(load_f16(w, at, ROWS), splat_f32(Q4C_UNIT, ROWS))
    for group in range(2 * blocks):
        block = at + Q4C_HEAD + (group >> 2) * Q4C_BLOCK
        meta, codes = block + ROWS * (group & 3), block + LINE + HALF * (group & 3)
        for line in range(0, HALF, LINE):
            prefetch(w, codes + line + AHEAD)
        prefetch(w, meta + AHEAD)
        x = t * q.shape[1] + 32 * group
        total = _product(w, meta, codes, q, x, sums, t, 2 * group)
        result = fma(to_f32(total), mul(super_scale, spread_f32(scale, t * scale.shape[1] + group, ROWS)), result)
    store_f32(out, o, result)


@inner
def unpack_q4c(w, at, start, end, panel, scales):
    """Blocks start .. end - 1 (of 64 inputs) of the tile as a panel: codes to weights, times group scales."""
    super_scale = mul(load_f16(w, at, ROWS), splat_f32(Q4C_UNIT, ROWS))
    for group in range(2 * (end - start)):
        store_f32(scales, ROWS * group, super_scale)
        stored = 2 * start + group
        block = at + Q4C_HEAD + (stored >> 2) * Q4C_BLOCK
        for line in range(0, HALF, LINE):  # the next panel's, which come in while this one is multiplied
            prefetch(w, block + LINE + HALF * (stored & 3) + line + AHEAD)
        for row in range(0, ROWS, LANES):
            meta = spread(load_i8(w, block + ROWS * (stored & 3) + row, LANES))
            factors = group_scales(meta, BITS)
            for line in range(4):
                codes = load_i8(w, block + LINE * (1 + line) + HALF * (stored & 3) + 4 * row, BYTES)
                i = 32 * group + 8 * line
                put_scaled(panel, i, row, _signed(low_nibbles(codes), meta), factors)
                put_scaled(panel, i + 4, row, _signed(high_nibbles(codes), meta), factors)
