"""A q4 tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`. `tile_q3.py` is its like."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.integers import group_scales, high_nibbles, look_up_in, low_nibbles, spread
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.segments import SEGMENT_BLOCKS, head_bytes, one_of, super_scales
from cpu_runtime.kernels.vectors import load_i8, prefetch, store_f32
from quant.formats import BLOCK, LINE, Q4, ROWS
from quant.jit import inner

_Q4 = Q4()
Q4_BLOCK, Q4_UNIT, BITS = _Q4.block_bytes, np.float32(2.0**-Q4.exponent), Q4.book_bits
BYTES = 4 * LANES  # of a line, that one vector of int32 lanes covers
AHEAD = SEGMENT_BLOCKS * Q4_BLOCK  # bytes from the codes in work to those asked for
_signed = look_up_in(Q4.books, 0)
one_q4 = one_of(_Q4, product_of(_Q4))


@inner
def unpack_q4(w, at, blocks, start, end, panel, scales):
    """Blocks start .. end - 1 of the tile, start a multiple of 8, as a panel: codes to weights, times group scales.

    The next panel's blocks are asked for, which come in while this one is multiplied.
    A sum over 32 inputs is at most 2 * 16 * 32 * 127 * 127 < 2^24.
    """
    block_at = at + head_bytes(blocks) + start * Q4_BLOCK
    for block in range(start, end):
        for line in range(0, Q4_BLOCK, LINE):
            prefetch(w, block_at + AHEAD + line)
        for g in range(4):
            i = BLOCK * (block - start) + 16 * g
            for row in range(0, ROWS, LANES):
                meta = spread(load_i8(w, block_at + ROWS * g + row, LANES))
                factors = group_scales(meta, BITS)
                for h in range(2):
                    codes = load_i8(w, block_at + LINE * (1 + 2 * g + h) + 4 * row, BYTES)
                    put_scaled(panel, i + 8 * h, row, _signed(low_nibbles(codes), meta), factors)
                    put_scaled(panel, i + 8 * h + 4, row, _signed(high_nibbles(codes), meta), factors)
        block_at += Q4_BLOCK
    super_scale = super_scales(w, at, start, Q4_UNIT)
    for group in range(2 * (end - start)):
        store_f32(scales, ROWS * group, super_scale)
