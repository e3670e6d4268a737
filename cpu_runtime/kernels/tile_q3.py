"""A q3 tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`. `tile_q4.py` is its like."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.integers import eighths, group_scales, high_nibbles, look_up_in, spare_codes, spread
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.segments import SEGMENT_BLOCKS, head_bytes, one_of, super_scales
from cpu_runtime.kernels.tile_q4 import BYTES
from cpu_runtime.kernels.vectors import load_i8, prefetch, store_f32
from quant.formats import LINE, Q3, ROWS
from quant.jit import inner

_Q3 = Q3()
Q3_BLOCK, Q3_UNIT, BITS = _Q3.block_bytes, np.float32(2.0**-Q3.exponent), Q3.book_bits
HALF = 3 * LINE  # bytes of codes of 32 inputs
AHEAD = SEGMENT_BLOCKS * Q3_BLOCK  # bytes from the codes in work to those asked for
_signed = look_up_in(Q3.books, 0, 1)  # two books of 8 levels make one of 16: see `products.py`
one_q3 = one_of(_Q3, product_of(_Q3))


@inner
def unpack_q3(w, at, blocks, start, end, panel, scales):
    """Blocks start .. end - 1 of the tile, start a multiple of 8, as a panel: codes to weights, times group scales.

    The next panel's blocks are asked for, which come in while this one is multiplied.
    """
    block_at = at + head_bytes(blocks) + start * Q3_BLOCK
    for half in range(2 * (end - start)):
        meta_at = block_at + (half >> 1) * Q3_BLOCK + 2 * ROWS * (half & 1)
        codes = block_at + (half >> 1) * Q3_BLOCK + LINE + HALF * (half & 1)
        for line in range(0, HALF, LINE):
            prefetch(w, codes + line + AHEAD)
        prefetch(w, meta_at + AHEAD)
        for row in range(0, ROWS, LANES):
            line = codes + 4 * row
            a, b, c = load_i8(w, line, BYTES), load_i8(w, line + LINE, BYTES), load_i8(w, line + 2 * LINE, BYTES)
            _put_group(panel, 32 * half, row, load_i8(w, meta_at + row, LANES), a, b)
            _put_group(panel, 32 * half + 16, row, load_i8(w, meta_at + ROWS + row, LANES), c, spare_codes(a, b, c))
    super_scale = super_scales(w, at, start, Q3_UNIT)
    for group in range(2 * (end - start)):
        store_f32(scales, ROWS * group, super_scale)


@inner
def _put_group(panel, i, row, meta, a, b):
    """The group of 16 inputs from i on in two lines of codes."""
    meta = spread(meta)
    factors = group_scales(meta, BITS)
    put_scaled(panel, i, row, _signed(eighths(a, meta), meta), factors)
    put_scaled(panel, i + 4, row, _signed(eighths(high_nibbles(a), meta), meta), factors)
    put_scaled(panel, i + 8, row, _signed(eighths(b, meta), meta), factors)
    put_scaled(panel, i + 12, row, _signed(eighths(high_nibbles(b), meta), meta), factors)
