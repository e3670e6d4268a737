"""A q4 tile times int8 activations; shapes as in `tile.py`.

Sums of a segment of 512 inputs are kept apart, since its super-scale multiplies them once, at the end.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES, OFFSET
from cpu_runtime.kernels.vectors import (
    fma,
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
    store_i8,
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
_ZERO = np.float32(0)
_look_up = look_up_in(Q4_BOOKS)


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
            segment = splat_f32(_ZERO, LANES)
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
                segment = fma(to_f32(total), splat_f32(scale[t, half], LANES), segment)
            super_scale = mul(load_f16(w, at + 2 * start + 2 * row, LANES), splat_f32(Q4_UNIT, LANES))
            store_f32(out, o + row, fma(segment, super_scale, load_f32(out, o + row, LANES)))


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
def many_q4(w, at, blocks, q, scale, sums, tokens, first, last, out, column):
    """The same for several tokens: a block is unpacked once, and multiplied with each."""
    lines = np.empty(BLOCK * ROWS, np.int8)
    segment = np.empty((last - first, ROWS), np.float32)
    block_at = at + q4_head(blocks)
    for start in range(0, blocks, SEGMENT_BLOCKS):
        segment[:] = _ZERO
        for block in range(start, min(start + SEGMENT_BLOCKS, blocks)):
            _unpack_q4_block(w, block_at, lines)
            for p in range(first, last):
                _add_q4_block(w, block_at, lines, block, q, scale, sums, tokens[p], segment, (p - first) * ROWS)
            block_at += Q4_BLOCK
        for row in range(0, ROWS, LANES):
            super_scale = mul(
                load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS + 2 * row, LANES), splat_f32(Q4_UNIT, LANES)
            )
            for p in range(first, last):
                o = p * out.shape[1] + column + row
                store_f32(
                    out,
                    o,
                    fma(load_f32(segment, (p - first) * ROWS + row, LANES), super_scale, load_f32(out, o, LANES)),
                )


@kernel
def _unpack_q4_block(w, at, lines):
    """Codes to weights: line i of 64 bytes holds inputs 4i .. 4i + 3, as in q8."""
    for g in range(4):
        for row in range(0, ROWS, LANES):
            book = spread(load_i8(w, at + ROWS * g + row, LANES))
            for h in range(2):
                codes = load_i8(w, at + LINE * (1 + 2 * g + h) + 4 * row, BYTES)
                to = LINE * (4 * g + 2 * h) + 4 * row
                store_i8(lines, to, _look_up(low_nibbles(codes), book))
                store_i8(lines, to + LINE, _look_up(high_nibbles(codes), book))


@kernel
def _add_q4_block(w, at, lines, block, q, scale, sums, t, out, o):
    """out[o : o + 16] += block · token t, short of the super-scale; two groups of 16 inputs share the token's scale.

    A sum over 32 inputs is at most 2 * 16 * 31 * 127 * 127 < 2^24.
    """
    for row in range(0, ROWS, LANES):
        total = load_f32(out, o + row, LANES)
        for half in range(2):
            both = splat_i32(0, LANES)
            for g in range(2 * half, 2 * half + 2):
                line, x = LINE * 4 * g + 4 * row, t * q.shape[1] + BLOCK * block + 16 * g
                both = scaled_dot(
                    both,
                    splat_i32(-OFFSET * sums[t, 4 * block + g], LANES),
                    spread(load_i8(w, at + ROWS * g + row, LANES)),
                    load_i8(lines, line, BYTES),
                    splat4(q, x, LANES),
                    load_i8(lines, line + LINE, BYTES),
                    splat4(q, x + 4, LANES),
                    load_i8(lines, line + 2 * LINE, BYTES),
                    splat4(q, x + 8, LANES),
                    load_i8(lines, line + 3 * LINE, BYTES),
                    splat4(q, x + 12, LANES),
                )
            total = fma(to_f32(both), splat_f32(scale[t, 2 * block + half], LANES), total)
        store_f32(out, o + row, total)
