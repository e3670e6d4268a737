"""A q4c tile times int8 activations, or as a panel; shapes as in `tile.py` and `byte_panel.py`.

Stored blocks are of 128 inputs, the blocks that kernels count of 64: a tile may end with half a block of padding.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import ahead
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.strip_panel import unpack_strip_of
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_f32,
    mul,
    prefetch,
    splat1,
    splat_f32,
    store_f32,
    to_f32,
)
from quant.formats import LINE, Q4C, ROWS, SEGMENT, STRIP
from quant.jit import inner

_Q4C = Q4C()
Q4C_BLOCK, Q4C_UNIT = _Q4C.block_bytes, np.float32(2.0**-Q4C.exponent)
Q4C_HEAD = _Q4C.head_bytes(1)  # one super-scale a row
_STRIP_BYTES = STRIP // 2 * ROWS
_SEGMENT_GROUPS = SEGMENT // STRIP  # as many as a panel has, after which a sum is scaled there too
_ZERO = np.float32(0)
_AHEAD = ahead(Q4C_BLOCK, 4)
_product, _unpack_strip = product_of(_Q4C), unpack_strip_of(_Q4C)


@inner
def one_q4c(w, at, blocks, q, scale, sums, t, out, o):
    """One token: out[o : o + 16] += tile · token t."""
    result = load_f32(out, o, ROWS)
    for start in range(0, 2 * blocks, _SEGMENT_GROUPS):
        segment = splat_f32(_ZERO, ROWS)
        for group in range(start, min(start + _SEGMENT_GROUPS, 2 * blocks)):
            meta, codes = _places(at, group)
            for line in range(0, _STRIP_BYTES, LINE):
                prefetch(w, codes + line + _AHEAD)
            prefetch(w, meta + _AHEAD)
            total = _product(w, meta, codes, q, t * q.shape[1] + STRIP * group, sums, t, 2 * group)
            segment = fma(to_f32(total), splat1(scale, t * scale.shape[1] + group, ROWS), segment)
        result = fma(segment, _super_scales(w, at), result)
    store_f32(out, o, result)


@inner
def unpack_q4c(w, at, start, end, panel, factors, scales):
    """Blocks start .. end - 1 (of 64 inputs) of the tile as a panel of bytes."""
    store_f32(scales, 0, _super_scales(w, at))
    for group in range(2 * (end - start)):
        meta, codes = _places(at, 2 * start + group)
        _unpack_strip(w, meta, codes, panel, factors, STRIP * group)


@inner
def _super_scales(w, at):
    """Of all rows, as weights are to be multiplied by."""
    return mul(load_f16(w, at, ROWS), splat_f32(Q4C_UNIT, ROWS))


@inner
def _places(at, group):
    """Where a group's meta bytes and its strip of codes are."""
    block = at + Q4C_HEAD + (group >> 2) * Q4C_BLOCK
    return block + ROWS * (group & 3), block + LINE + _STRIP_BYTES * (group & 3)
