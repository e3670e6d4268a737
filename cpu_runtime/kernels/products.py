"""A strip of 32 inputs of a tile that codes into one of several books, times one token, as the CPU does it best.

product(w, meta_at, codes_at, q, x_at, sums, t, s) -> sums of 16 rows, i32: group scales times products of 32 inputs
Shapes: w u8, meta bytes at `meta_at`, a strip of codes at `codes_at` · q i8, inputs at `x_at` · sums[t, s] and the
next: those of each 16 of these inputs, as `quantize_rows` has them
"""

from __future__ import annotations

from typing import Any

from cpu_runtime.kernels.activations import too_much
from cpu_runtime.kernels.cpu import OFFSET, ROW_LANES
from cpu_runtime.kernels.integers import eighths, high_nibbles, look_up_in, low_nibbles, scaled_dot, spread
from cpu_runtime.kernels.row_lanes import row_lane_product_in
from cpu_runtime.kernels.strips import strips_of
from cpu_runtime.kernels.vectors import load_i8, splat4, splat_i32
from quant.formats import ROWS, Coded
from quant.jit import inner


def product_of(form: Coded) -> Any:
    """Make the product for q3, q4 or q4c."""
    if ROW_LANES:
        return row_lane_product_in(form)
    return _quads_product_of(form)


def level_of(form: Coded, offset: int) -> Any:
    """Make level(codes, meta): the levels, `offset` higher, of codes in low nibbles in the books that meta names."""
    # Two books of 8 levels make one of 16, whose number is that of the book without its lowest bit.
    threes = form.code_bits == 3
    look_up = look_up_in(form.books, offset, 1 if threes else 0)
    if not threes:
        return look_up

    @inner
    def level(codes, meta):
        return look_up(eighths(codes, meta), meta)

    return level


def _quads_product_of(form: Coded) -> Any:
    level, bits = level_of(form, OFFSET), form.book_bits
    quads = strips_of(form).all_quads
    second_meta = 0 if form.group == 32 else ROWS

    @inner
    def product(w, meta_at, codes_at, q, x, sums, t, s):
        a, b, c, d = quads(w, codes_at)
        meta = spread(load_i8(w, meta_at, ROWS))
        total = scaled_dot(
            splat_i32(0, ROWS),
            splat_i32(too_much(OFFSET, sums, t, s), ROWS),
            meta,
            bits,
            level(low_nibbles(a), meta),
            splat4(q, x, ROWS),
            level(low_nibbles(b), meta),
            splat4(q, x + 4, ROWS),
            level(low_nibbles(c), meta),
            splat4(q, x + 8, ROWS),
            level(low_nibbles(d), meta),
            splat4(q, x + 12, ROWS),
        )
        meta = spread(load_i8(w, meta_at + second_meta, ROWS))
        return scaled_dot(
            total,
            splat_i32(too_much(OFFSET, sums, t, s + 1), ROWS),
            meta,
            bits,
            level(high_nibbles(a), meta),
            splat4(q, x + 16, ROWS),
            level(high_nibbles(b), meta),
            splat4(q, x + 20, ROWS),
            level(high_nibbles(c), meta),
            splat4(q, x + 24, ROWS),
            level(high_nibbles(d), meta),
            splat4(q, x + 28, ROWS),
        )

    return product
