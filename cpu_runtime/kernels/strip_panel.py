"""A strip of 32 inputs of a tile that codes into one of several books, as a part of a panel of bytes."""

from __future__ import annotations

from typing import Any

from cpu_runtime.kernels.activations import LIFT
from cpu_runtime.kernels.byte_panel import put, put_factors
from cpu_runtime.kernels.cpu import LANES, ROW_LANES
from cpu_runtime.kernels.integers import group_scales, high_nibbles, low_nibbles, spread
from cpu_runtime.kernels.packs import HALF
from cpu_runtime.kernels.products import level_of
from cpu_runtime.kernels.row_lanes import row_levels_in
from cpu_runtime.kernels.strips import quads, strips_of
from cpu_runtime.kernels.vectors import load_i8
from quant.formats import ROWS, Coded
from quant.jit import inner


def unpack_strip_of(form: Coded) -> Any:
    """Make unpack(w, meta_at, codes_at, panel, factors, i): the strip's levels and factors, as inputs i and further.

    A sum over 32 inputs of such weights times int8 is at most 32 * 31 * 32 * 127 < 2^24.
    """
    return _by_row_lanes(form) if ROW_LANES else _by_quads(form)


def _by_row_lanes(form: Coded) -> Any:
    """Codes are looked up as they lie, with one table for two rows; then levels are turned into quads."""
    levels, bits = row_levels_in(form), form.book_bits
    pairs_of, _, eight_bytes = strips_of(form)
    second_meta = 0 if form.group == 32 else ROWS

    @inner
    def put_half(panel, factors, i, row, w, meta_at, a, b, c, d):
        """A group of 8 rows from codes in low nibbles."""
        a, b = levels(a, w, meta_at, 0), levels(b, w, meta_at, 1)
        c, d = levels(c, w, meta_at, 2), levels(d, w, meta_at, 3)
        _put_quads(panel, i, row, quads(a, b, c, d))
        put_factors(factors, i, row, group_scales(spread(load_i8(w, meta_at, 8)), bits))

    @inner
    def unpack(w, meta_at, codes_at, panel, factors, i):
        for eight in range(2):
            row = 8 * eight
            a, b, c, d = pairs_of(w, codes_at + eight * eight_bytes)
            put_half(
                panel, factors, i, row, w, meta_at + row, low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d)
            )
            a, b, c, d = high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d)
            put_half(panel, factors, i + HALF, row, w, meta_at + second_meta + row, a, b, c, d)

    return unpack


def _by_quads(form: Coded) -> Any:
    """Codes are turned into quads, then looked up."""
    level, bits = level_of(form, LIFT), form.book_bits
    pairs_of, all_quads_of, eight_bytes = strips_of(form)
    second_meta = 0 if form.group == 32 else ROWS

    @inner
    def put_half(panel, factors, i, row, w, meta_at, a, b, c, d):
        """A group of LANES rows from quads of codes in low nibbles."""
        meta = spread(load_i8(w, meta_at, LANES))
        _put_quads(panel, i, row, (level(a, meta), level(b, meta), level(c, meta), level(d, meta)))
        put_factors(factors, i, row, group_scales(meta, bits))

    if LANES == ROWS:

        @inner
        def quads_from(w, codes_at, row):
            return all_quads_of(w, codes_at)
    else:

        @inner
        def quads_from(w, codes_at, row):
            return quads(*pairs_of(w, codes_at + row // 8 * eight_bytes))

    @inner
    def unpack(w, meta_at, codes_at, panel, factors, i):
        for row in range(0, ROWS, LANES):
            a, b, c, d = quads_from(w, codes_at, row)
            put_half(
                panel, factors, i, row, w, meta_at + row, low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d)
            )
            a, b, c, d = high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d)
            put_half(panel, factors, i + HALF, row, w, meta_at + second_meta + row, a, b, c, d)

    return unpack


@inner
def _put_quads(panel, i, row, levels):
    a, b, c, d = levels
    put(panel, i, row, a)
    put(panel, i + 4, row, b)
    put(panel, i + 8, row, c)
    put(panel, i + 12, row, d)
