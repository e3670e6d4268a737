"""A q4c tile times int8 activations, or as a panel; shapes as in `tile.py` and `byte_panel.py`.

Stored blocks are of 128 inputs, the blocks that kernels count of 64: a tile may end with half a block of padding.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import ahead
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.strip_panel import unpack_strip_of
from cpu_runtime.kernels.tile_pair import products_of
from cpu_runtime.kernels.upcoming import ask_before
from cpu_runtime.kernels.vectors import fma, load_f16, mul, splat1, splat_f32, store_f32, to_f32
from quant.formats import LINE, Q4C, ROWS, STRIP
from quant.jit import inner

_Q4C = Q4C()
Q4C_BLOCK, Q4C_UNIT = _Q4C.block_bytes, np.float32(2.0**-Q4C.exponent)
Q4C_HEAD = _Q4C.head_bytes(1)  # one super-scale a row
_STRIP_BYTES = STRIP // 2 * ROWS
_AHEAD = ahead(Q4C_BLOCK, 4)
_product, _unpack_strip = product_of(_Q4C), unpack_strip_of(_Q4C)


@inner
def unpack_q4c(w, at, start, end, panel, factors, scales):
    """Blocks start .. end - 1 (of 64 inputs) of the tile as a panel of bytes."""
    store_f32(scales, 0, _super_scales(w, at, start))
    for group in range(2 * (end - start)):
        meta, codes = _places(at, 2 * start + group)
        _unpack_strip(w, meta, codes, panel, factors, STRIP * group)


@inner
def _super_scales(w, at, block):
    """Of all rows, as weights are to be multiplied by, whichever the block."""
    return mul(load_f16(w, at, ROWS), splat_f32(Q4C_UNIT, ROWS))


@inner
def _places(at, group):
    """Where a group's meta bytes and its strip of codes are."""
    block = at + Q4C_HEAD + (group >> 2) * Q4C_BLOCK
    return block + ROWS * (group & 3), block + LINE + _STRIP_BYTES * (group & 3)


@inner
def _add_block(total, w, at, blocks, block, q, scale, sums, t):
    for group in range(2 * block, 2 * block + 2):
        meta, codes = _places(at, group)
        codes = ask_before(w, codes, _AHEAD, _AHEAD + _STRIP_BYTES)
        meta = ask_before(w, meta, _AHEAD, _AHEAD + 1)
        dots = _product(w, meta, codes, q, t * q.shape[1] + STRIP * group, sums, t, 2 * group)
        total = fma(to_f32(dots), splat1(scale, t * scale.shape[1] + group, ROWS), total)
    return total


one_q4c = products_of(_add_block, _super_scales)
