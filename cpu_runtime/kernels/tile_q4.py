"""A q4 tile times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES, OFFSET
from cpu_runtime.kernels.panel import put_scaled
from cpu_runtime.kernels.vectors import (
    fma,
    group_scales,
    high_nibbles,
    load_f16,
    load_f32,
    load_i8,
    look_up_in,
    low_nibbles,
    mul,
    prefetch,
    scaled_dot,
    splat4,
    splat_f32,
    splat_i32,
    spread,
    store_f32,
    to_f32,
)
from quant.codebooks import Q4_BOOKS
from quant.formats import BLOCK, LINE, Q4, ROWS
from quant.jit import kernel

Q4_BLOCK = Q4.BLOCK_BYTES
Q4_UNIT = np.float32(2.0**-Q4.EXPONENT)
SEGMENT_BLOCKS = 8  # blocks of 64 inputs that share a super-scale
BYTES = 4 * LANES  # of a line, that one vector of int32 lanes covers
AHEAD = SEGMENT_BLOCKS * Q4_BLOCK  # bytes from the codes in work to those asked for; half of it is 10% slower
_look_up, _signed = look_up_in(Q4_BOOKS, OFFSET), look_up_in(Q4_BOOKS, 0)


@kernel
def q4_head(blocks):
    """Bytes of a q4 tile's super-scales."""
    segments = (blocks + SEGMENT_BLOCKS - 1) // SEGMENT_BLOCKS
    return (segments * 2 * ROWS + LINE - 1) // LINE * LINE


@kernel
def one_q4(w, at, blocks, q, scale, sums, t, out, o):
    """One token: weights go from the look-up straight into the product."""
    body = at + q4_head(blocks)
    for start in range(0, 2 * blocks, 2 * SEGMENT_BLOCKS):
        end = min(start + 2 * SEGMENT_BLOCKS, 2 * blocks)
        for row in range(0, ROWS, LANES):
            result = load_f32(out, o + row, LANES)
            super_scale = mul(load_f16(w, at + 2 * start + 2 * row, LANES), splat_f32(Q4_UNIT, LANES))
            for half in range(start, end):
                meta = body + (half >> 1) * Q4_BLOCK + 2 * ROWS * (half & 1) + row
                codes = body + (half >> 1) * Q4_BLOCK + LINE + 4 * LINE * (half & 1) + 4 * row
                x = t * q.shape[1] + 32 * half
                for line in range(0, 4 * BYTES, LINE):  # the passes over the rows share the block's lines out
                    prefetch(w, codes + 12 * row + line + AHEAD)
                prefetch(w, meta + AHEAD)
                total = splat_i32(0, LANES)
                total = _add_group(total, w, meta, codes, q, x, sums[t, 2 * half])
                total = _add_group(total, w, meta + ROWS, codes + 2 * LINE, q, x + 16, sums[t, 2 * half + 1])
                result = fma(to_f32(total), mul(super_scale, splat_f32(scale[t, half], LANES)), result)
            store_f32(out, o + row, result)


@kernel
def _add_group(total, w, meta_at, codes_at, q, x, s):
    """total += the group's scale * its 16 inputs · the token's."""
    meta = spread(load_i8(w, meta_at, LANES))
    a, b = load_i8(w, codes_at, BYTES), load_i8(w, codes_at + LINE, BYTES)
    start = splat_i32(-OFFSET * s, LANES)
    return scaled_dot(
        total,
        start,
        meta,
        _look_up(low_nibbles(a), meta),
        splat4(q, x, LANES),
        _look_up(high_nibbles(a), meta),
        splat4(q, x + 4, LANES),
        _look_up(low_nibbles(b), meta),
        splat4(q, x + 8, LANES),
        _look_up(high_nibbles(b), meta),
        splat4(q, x + 12, LANES),
    )


@kernel
def unpack_q4(w, at, blocks, start, end, panel, scales):
    """Blocks start .. end - 1 of the tile, start a multiple of 8, as a panel: codes to weights, times group scales.

    A sum over 32 inputs is at most 2 * 16 * 32 * 127 * 127 < 2^24.
    """
    block_at = at + q4_head(blocks) + start * Q4_BLOCK
    for block in range(start, end):
        for g in range(4):
            i = BLOCK * (block - start) + 16 * g
            for row in range(0, ROWS, LANES):
                meta = spread(load_i8(w, block_at + ROWS * g + row, LANES))
                factors = group_scales(meta)
                for h in range(2):
                    codes = load_i8(w, block_at + LINE * (1 + 2 * g + h) + 4 * row, BYTES)
                    put_scaled(panel, i + 8 * h, row, _signed(low_nibbles(codes), meta), factors)
                    put_scaled(panel, i + 8 * h + 4, row, _signed(high_nibbles(codes), meta), factors)
        block_at += Q4_BLOCK
    super_scale = mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(Q4_UNIT, ROWS))
    for group in range(2 * (end - start)):
        store_f32(scales, ROWS * group, super_scale)
