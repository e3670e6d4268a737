"""A q5 or q6 tile times int8 activations, or as a panel; shapes as in `tile.py` and `wide_panel.py`.

Codes are nibbles, as in k4, and one or two bits more in lines of their own: these choose among the parts of the one
book as q4's meta bytes choose a book. Scales are whole bytes: a sum over 32 inputs is an int32, at most
32 * 127 * 127 * 127 < 2^26, rounded once where it becomes a float, the same for one token and for many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.activations import too_much
from cpu_runtime.kernels.cpu import LANES, OFFSET, ahead
from cpu_runtime.kernels.integers import (
    fields,
    group_scales,
    high_nibbles,
    look_up_in,
    low_nibbles,
    scaled_dot,
    spread,
)
from cpu_runtime.kernels.tile_pair import products_of
from cpu_runtime.kernels.upcoming import ask_before_half
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_i8,
    mul,
    splat1,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
)
from cpu_runtime.kernels.wide_panel import put_scaled
from quant.formats import LINE, Q5, Q6, ROWS, Coded
from quant.jit import inner

Q5_BLOCK, Q6_BLOCK = Q5().block_bytes, Q6().block_bytes
BYTES = 4 * LANES  # of a line, that one vector of int32 lanes covers
WIDE_HEAD, WIDE_UNIT = Q5().head_bytes(1), np.float32(2.0**-Q5.exponent)  # one super-scale a row


def _kernels_of(form: Coded) -> tuple[Any, Any]:
    """(products with one token, unpack): like `one_q8` and `unpack_q8`."""
    block_bytes = form.block_bytes
    more = form.code_bits - 4
    first_bytes = 5 * LINE  # asked for before the first half
    further = ahead(block_bytes, 8)
    first, second, third, fourth = (look_up_in(form.books, OFFSET, more * quad) for quad in range(4))
    signed_low, signed_high = look_up_in(form.books, 0), look_up_in(form.books, 0, more)

    @inner
    def add_block(total, w, at, blocks, block, q, scale, sums, t):
        super_scale = mul(load_f16(w, at, ROWS), splat_f32(WIDE_UNIT, ROWS))
        at = at + WIDE_HEAD + block * block_bytes
        for half in range(2):
            at = ask_before_half(half, w, at, further, first_bytes, block_bytes)
            dots, x = splat_i32(0, ROWS), 2 * block + half
            for group in range(2 * half, 2 * half + 2):
                i = 4 * block + group
                dots = add_group(dots, w, at, group, q, t * q.shape[1] + 16 * i, t, i, sums)
            total = fma(to_f32(dots), mul(super_scale, splat1(scale, t * scale.shape[1] + x, ROWS)), total)
        return total

    @inner
    def add_group(total, w, block, g, q, x, t, group, sums):
        """total += the scale of group g of a block * its 16 inputs · the token's."""
        meta = spread(load_i8(w, block + ROWS * g, ROWS))
        a, b = load_i8(w, block + LINE * (1 + 2 * g), LINE), load_i8(w, block + LINE * (2 + 2 * g), LINE)
        bit = 4 * more * g
        above = fields(load_i8(w, block + LINE * (9 + (bit >> 3)), LINE), bit & 7)
        return scaled_dot(
            total,
            splat_i32(too_much(OFFSET, sums, t, group), ROWS),
            meta,
            0,
            first(low_nibbles(a), above),
            splat4(q, x, ROWS),
            second(high_nibbles(a), above),
            splat4(q, x + 4, ROWS),
            third(low_nibbles(b), above),
            splat4(q, x + 8, ROWS),
            fourth(high_nibbles(b), above),
            splat4(q, x + 12, ROWS),
        )

    @inner
    def unpack(w, at, start, end, panel, scales):
        """Blocks start .. end - 1 of the tile as a panel: codes to weights, times group scales."""
        super_scale = mul(load_f16(w, at, ROWS), splat_f32(WIDE_UNIT, ROWS))
        for group in range(4 * (end - start)):
            block, g = at + WIDE_HEAD + (start + (group >> 2)) * block_bytes, group & 3
            store_f32(scales, ROWS * (group >> 1), super_scale)
            for row in range(0, ROWS, LANES):
                meta = spread(load_i8(w, block + ROWS * g + row, LANES))
                factors, bit = group_scales(meta, 0), 4 * more * g
                above = fields(load_i8(w, block + LINE * (9 + (bit >> 3)) + 4 * row, BYTES), bit & 7)
                for line in range(2):
                    codes = load_i8(w, block + LINE * (1 + 2 * g + line) + 4 * row, BYTES)
                    i = 16 * group + 8 * line
                    put_scaled(panel, i, row, signed_low(low_nibbles(codes), above), factors)
                    put_scaled(panel, i + 4, row, signed_high(high_nibbles(codes), above), factors)
                    above = fields(above, 2 * more)

    return products_of(add_block), unpack


one_q5, unpack_q5 = _kernels_of(Q5())
one_q6, unpack_q6 = _kernels_of(Q6())
