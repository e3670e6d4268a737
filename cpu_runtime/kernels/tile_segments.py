"""Tiles of q3 and q4, whose rows have a super-scale a segment of inputs: times one token, or as a panel.

Shapes as in `tile.py` and `byte_panel.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.cpu import ahead
from cpu_runtime.kernels.products import product_of
from cpu_runtime.kernels.strip_panel import unpack_strip_of
from cpu_runtime.kernels.tile_pair import SEGMENT_BLOCKS, products_of
from cpu_runtime.kernels.upcoming import ask_before_half
from cpu_runtime.kernels.vectors import fma, load_f16, mul, splat1, splat_f32, store_f32, to_f32
from quant.formats import BLOCK, LINE, Q3, Q4, ROWS, STRIP, Coded
from quant.jit import inner

Q3_BLOCK, Q4_BLOCK = Q3().block_bytes, Q4().block_bytes
UNIT = np.float32(2.0**-Q4.exponent)  # of the super-scales of both


@inner
def head_bytes(blocks):
    """Bytes of a tile's super-scales: see `Coded`."""
    segments = (blocks + SEGMENT_BLOCKS - 1) // SEGMENT_BLOCKS
    return (segments * 2 * ROWS + LINE - 1) // LINE * LINE


@inner
def super_scales(w, at, start):
    """Those of the segment that block `start` is in, of all rows, as weights are to be multiplied by."""
    return mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(UNIT, ROWS))


def _kernels_of(form: Coded) -> tuple[Any, Any]:
    """(products with one token, unpack)."""
    block_bytes = form.block_bytes
    strip_bytes = (block_bytes - LINE) // 2
    first_bytes = LINE + strip_bytes  # asked for before the first half
    further = ahead(block_bytes, 8)
    product, unpack_strip = product_of(form), unpack_strip_of(form)

    @inner
    def add_block(total, w, at, blocks, block, q, scale, sums, t):
        """Weights go from the look-up straight into the product."""
        at = at + head_bytes(blocks) + block * block_bytes
        for half in range(2):
            at = ask_before_half(half, w, at, further, first_bytes, block_bytes)
            meta, codes = at + 2 * ROWS * half, at + LINE + strip_bytes * half
            x = t * q.shape[1] + BLOCK * block + STRIP * half
            dots = product(w, meta, codes, q, x, sums, t, 4 * block + 2 * half)
            total = fma(to_f32(dots), splat1(scale, t * scale.shape[1] + 2 * block + half, ROWS), total)
        return total

    @inner
    def unpack(w, at, blocks, start, end, panel, factors, scales):
        """Blocks start .. end - 1 of the tile, start a multiple of 8, as a panel of bytes."""
        body = at + head_bytes(blocks)
        store_f32(scales, 0, super_scales(w, at, start))
        for block in range(start, end):
            block_at = body + block * block_bytes
            for half in range(2):
                meta, codes = block_at + 2 * ROWS * half, block_at + LINE + strip_bytes * half
                unpack_strip(w, meta, codes, panel, factors, BLOCK * (block - start) + STRIP * half)

    return products_of(add_block, super_scales), unpack


one_q3, unpack_q3 = _kernels_of(Q3())
one_q4, unpack_q4 = _kernels_of(Q4())
