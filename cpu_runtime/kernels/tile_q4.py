"""A q4 tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`. `tile_q3.py` is its like."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES, OFFSET, ROW_LANES
from cpu_runtime.kernels.integers import (
    group_scales,
    high_nibbles,
    look_up_in,
    low_nibbles,
    scaled_dot,
    spread,
)
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.reductions import spread_f32
from cpu_runtime.kernels.row_lanes import row_lane_product_in
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
from quant.formats import BLOCK, LINE, Q4, ROWS, SEGMENT
from quant.jit import inner

_Q4 = Q4()
Q4_BLOCK, Q4_UNIT, BITS = _Q4.block_bytes, np.float32(2.0**-Q4.exponent), Q4.book_bits
SEGMENT_BLOCKS = SEGMENT // BLOCK
BYTES = 4 * LANES  # of a line, that one vector of int32 lanes covers
AHEAD = SEGMENT_BLOCKS * Q4_BLOCK  # bytes from the codes in work to those asked for; half of it is 10% slower
_row_lane_product = row_lane_product_in(_Q4)
_look_up, _signed = look_up_in(Q4.books, OFFSET), look_up_in(Q4.books, 0)


@inner
def head_bytes(blocks):
    """Bytes of a tile's super-scales where segments have their own: see `Coded`."""
    segments = (blocks + SEGMENT_BLOCKS - 1) // SEGMENT_BLOCKS
    return (segments * 2 * ROWS + LINE - 1) // LINE * LINE


@inner
def one_q4(w, at, blocks, q, scale, sums, t, out, o):
    """One token: weights go from the look-up straight into the product."""
    body = at + head_bytes(blocks)
    result = load_f32(out, o, ROWS)
    for start in range(0, blocks, SEGMENT_BLOCKS):
        super_scale = mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(Q4_UNIT, ROWS))
        for block in range(start, min(start + SEGMENT_BLOCKS, blocks)):
            block_at = body + block * Q4_BLOCK
            for line in range(0, Q4_BLOCK, LINE):
                prefetch(w, block_at + AHEAD + line)
            for half in range(2):
                meta, codes = block_at + 2 * ROWS * half, block_at + LINE + 4 * LINE * half
                x = t * q.shape[1] + BLOCK * block + 32 * half
                if ROW_LANES:
                    total = _row_lane_product(w, meta, codes, q, x)
                else:
                    s = 4 * block + 2 * half
                    total = _add_group(splat_i32(0, ROWS), w, meta, codes, q, x, sums[t, s])
                    total = _add_group(total, w, meta + ROWS, codes + 2 * LINE, q, x + 16, sums[t, s + 1])
                both_scales = mul(super_scale, spread_f32(scale, t * scale.shape[1] + 2 * block + half, ROWS))
                result = fma(to_f32(total), both_scales, result)
    store_f32(out, o, result)


@inner
def _add_group(total, w, meta_at, codes_at, q, x, s):
    """total += the group's scale * its 16 inputs · the token's."""
    meta = spread(load_i8(w, meta_at, ROWS))
    a, b = load_i8(w, codes_at, LINE), load_i8(w, codes_at + LINE, LINE)
    return scaled_dot(
        total,
        splat_i32(-OFFSET * s, ROWS),
        meta,
        BITS,
        _look_up(low_nibbles(a), meta),
        splat4(q, x, ROWS),
        _look_up(high_nibbles(a), meta),
        splat4(q, x + 4, ROWS),
        _look_up(low_nibbles(b), meta),
        splat4(q, x + 8, ROWS),
        _look_up(high_nibbles(b), meta),
        splat4(q, x + 12, ROWS),
    )


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
    super_scale = mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(Q4_UNIT, ROWS))
    for group in range(2 * (end - start)):
        store_f32(scales, ROWS * group, super_scale)
