"""A q3 tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`. `tile_q4.py` is its like."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES, OFFSET, ROW_LANES
from cpu_runtime.kernels.integers import (
    eighths,
    group_scales,
    high_nibbles,
    look_up_in,
    scaled_dot,
    spare_codes,
    spread,
)
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.reductions import spread_f32
from cpu_runtime.kernels.row_lanes import row_lane_product_in
from cpu_runtime.kernels.tile_q4 import BYTES, SEGMENT_BLOCKS, head_bytes
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_f32,
    load_i8,
    mul,
    prefetch,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
)
from quant.formats import BLOCK, LINE, Q3, ROWS
from quant.jit import inner

_Q3 = Q3()
Q3_BLOCK, Q3_UNIT, BITS = _Q3.block_bytes, np.float32(2.0**-Q3.exponent), Q3.book_bits
HALF = 3 * LINE  # bytes of codes of 32 inputs
AHEAD = SEGMENT_BLOCKS * Q3_BLOCK  # bytes from the codes in work to those asked for
_row_lane_product = row_lane_product_in(_Q3)
# Two books of 8 levels make one of 16, whose number is that of the book without its lowest bit.
_look_up, _signed = look_up_in(Q3.books, OFFSET, 1), look_up_in(Q3.books, 0, 1)


@inner
def one_q3(w, at, blocks, q, scale, sums, t, out, o):
    """One token: out[o : o + 16] += tile · token t."""
    body = at + head_bytes(blocks)
    result = load_f32(out, o, ROWS)
    for start in range(0, blocks, SEGMENT_BLOCKS):
        super_scale = mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(Q3_UNIT, ROWS))
        for block in range(start, min(start + SEGMENT_BLOCKS, blocks)):
            block_at = body + block * Q3_BLOCK
            for line in range(0, Q3_BLOCK, LINE):
                prefetch(w, block_at + AHEAD + line)
            for half in range(2):
                meta, codes = block_at + 2 * ROWS * half, block_at + LINE + HALF * half
                x = t * q.shape[1] + BLOCK * block + 32 * half
                if ROW_LANES:
                    total = _row_lane_product(w, meta, codes, q, x)
                else:
                    s = 4 * block + 2 * half
                    a, b = load_i8(w, codes, LINE), load_i8(w, codes + LINE, LINE)
                    c = load_i8(w, codes + 2 * LINE, LINE)
                    total = _add_group(splat_i32(0, ROWS), w, meta, a, b, q, x, sums[t, s])
                    total = _add_group(total, w, meta + ROWS, c, spare_codes(a, b, c), q, x + 16, sums[t, s + 1])
                both_scales = mul(super_scale, spread_f32(scale, t * scale.shape[1] + 2 * block + half, ROWS))
                result = fma(to_f32(total), both_scales, result)
    store_f32(out, o, result)


@inner
def _add_group(total, w, meta_at, a, b, q, x, s):
    """total += the group's scale * its 16 inputs · the token's; a and b: its lines of codes."""
    meta = spread(load_i8(w, meta_at, ROWS))
    return scaled_dot(
        total,
        splat_i32(-OFFSET * s, ROWS),
        meta,
        BITS,
        _look_up(eighths(a, meta), meta),
        splat4(q, x, ROWS),
        _look_up(eighths(high_nibbles(a), meta), meta),
        splat4(q, x + 4, ROWS),
        _look_up(eighths(b, meta), meta),
        splat4(q, x + 8, ROWS),
        _look_up(eighths(high_nibbles(b), meta), meta),
        splat4(q, x + 12, ROWS),
    )


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
    super_scale = mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(Q3_UNIT, ROWS))
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
