"""32 inputs of a tile that codes into one of several books, times one token, as the CPU does it best.

product(w, meta_at, codes_at, q, x_at, sums, t, s) -> sums of 16 rows, i32: group scales times products of 32 inputs
Shapes: w u8, meta bytes at `meta_at`, lines of codes at `codes_at` · q i8, inputs at `x_at` · sums[t, s] and the next:
the sums of each 16 of these inputs
"""

from __future__ import annotations

from typing import Any

from cpu_runtime.kernels.cpu import OFFSET, ROW_LANES
from cpu_runtime.kernels.integers import (
    eighths,
    high_nibbles,
    look_up_in,
    low_nibbles,
    scaled_dot,
    spare_codes,
    spread,
)
from cpu_runtime.kernels.row_lanes import row_lane_product_in
from cpu_runtime.kernels.vectors import load_i8, splat4, splat_i32
from quant.formats import LINE, Q3, ROWS, Coded
from quant.jit import inner


def product_of(form: Coded) -> Any:
    """Make the product for q3, q4 or q4c."""
    if ROW_LANES:
        return row_lane_product_in(form)
    return _eighths_product() if form.name == Q3.name else _nibble_product_of(form)


def _nibble_product_of(form: Coded) -> Any:
    """A code line's low nibbles are four inputs of each row, its high nibbles the four after them."""
    look_up, bits = look_up_in(form.books, OFFSET), form.book_bits
    second_meta = 0 if form.group == 32 else ROWS

    @inner
    def add_group(total, w, meta_at, codes_at, q, x, s):
        """total += the group's scale * 16 of its inputs · the token's."""
        meta = spread(load_i8(w, meta_at, ROWS))
        a, b = load_i8(w, codes_at, LINE), load_i8(w, codes_at + LINE, LINE)
        return scaled_dot(
            total,
            splat_i32(-OFFSET * s, ROWS),
            meta,
            bits,
            look_up(low_nibbles(a), meta),
            splat4(q, x, ROWS),
            look_up(high_nibbles(a), meta),
            splat4(q, x + 4, ROWS),
            look_up(low_nibbles(b), meta),
            splat4(q, x + 8, ROWS),
            look_up(high_nibbles(b), meta),
            splat4(q, x + 12, ROWS),
        )

    @inner
    def product(w, meta_at, codes_at, q, x_at, sums, t, s):
        total = add_group(splat_i32(0, ROWS), w, meta_at, codes_at, q, x_at, sums[t, s])
        return add_group(total, w, meta_at + second_meta, codes_at + 2 * LINE, q, x_at + 16, sums[t, s + 1])

    return product


def _eighths_product() -> Any:
    """Three lines of 3-bit codes, whose spare bits are a fourth."""
    # Two books of 8 levels make one of 16, whose number is that of the book without its lowest bit.
    look_up, bits = look_up_in(Q3.books, OFFSET, 1), Q3().book_bits

    @inner
    def add_group(total, w, meta_at, a, b, q, x, s):
        """total += the group's scale * its 16 inputs · the token's; a and b: its lines of codes."""
        meta = spread(load_i8(w, meta_at, ROWS))
        return scaled_dot(
            total,
            splat_i32(-OFFSET * s, ROWS),
            meta,
            bits,
            look_up(eighths(a, meta), meta),
            splat4(q, x, ROWS),
            look_up(eighths(high_nibbles(a), meta), meta),
            splat4(q, x + 4, ROWS),
            look_up(eighths(b, meta), meta),
            splat4(q, x + 8, ROWS),
            look_up(eighths(high_nibbles(b), meta), meta),
            splat4(q, x + 12, ROWS),
        )

    @inner
    def product(w, meta_at, codes_at, q, x_at, sums, t, s):
        a, b, c = load_i8(w, codes_at, LINE), load_i8(w, codes_at + LINE, LINE), load_i8(w, codes_at + 2 * LINE, LINE)
        total = add_group(splat_i32(0, ROWS), w, meta_at, a, b, q, x_at, sums[t, s])
        return add_group(total, w, meta_at + ROWS, c, spare_codes(a, b, c), q, x_at + 16, sums[t, s + 1])

    return product
