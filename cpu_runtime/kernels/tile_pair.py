"""Tiles of a matrix times one token, two at a time: the loop that most of decoding is spent in.

Memory brings two places at once faster than one: a CPU reads ahead within a page, and where one place comes to a page's
end the other is still on its way.

Shapes as in `tile.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.vectors import apart, fma, splat_f32, store_f32
from quant.formats import BLOCK, ROWS, SEGMENT
from quant.jit import function_of_its_own, inner

SEGMENT_BLOCKS = SEGMENT // BLOCK
_ZERO = np.float32(0)


@inner
def _going_on(result):
    return result


@inner
def _as_it_is(total, result, w, at, block):
    return total


def products_of(add_block: Any, super_scales: Any = None) -> Any:
    """Make products(w, at, size, count, blocks, q, scale, sums, t, out, o) for a format.

    It gives out[o : o + 16 count] = `count` tiles of `size` bytes each, from byte `at` on, times token t.
    add_block(total, w, at, blocks, block, q, scale, sums, t) -> total + a block of the tile at `at` times the token
    super_scales(w, at, block) -> what the total of the segment that begins with the block is multiplied by, if anything
    """
    begun, ended = (_going_on, _as_it_is) if super_scales is None else _by_segments(super_scales)

    @function_of_its_own
    def products(w, at, size, count, blocks, q, scale, sums, t, out, o):
        apart()
        half = (count + 1) // 2
        for n in range(half):
            m = min(half + n, count - 1)  # an odd one is computed twice
            x, y = at + n * size, at + m * size
            x_result = y_result = splat_f32(_ZERO, ROWS)
            for start in range(0, blocks, SEGMENT_BLOCKS):
                x_total, y_total = begun(x_result), begun(y_result)
                for block in range(start, min(start + SEGMENT_BLOCKS, blocks)):
                    x_total = add_block(x_total, w, x, blocks, block, q, scale, sums, t)
                    y_total = add_block(y_total, w, y, blocks, block, q, scale, sums, t)
                x_result, y_result = ended(x_total, x_result, w, x, start), ended(y_total, y_result, w, y, start)
            store_f32(out, o + ROWS * n, x_result)
            store_f32(out, o + ROWS * m, y_result)

    return products


def _by_segments(super_scales: Any) -> tuple[Any, Any]:
    """(what a segment's total begins with, the result with such a total)."""

    @inner
    def begun(result):
        return splat_f32(_ZERO, ROWS)

    @inner
    def ended(total, result, w, at, block):
        return fma(total, super_scales(w, at, block), result)

    return begun, ended
