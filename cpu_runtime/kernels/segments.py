"""A tile of q3 or q4, whose rows have a super-scale a segment of inputs, times one token; shapes as in `tile.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cpu_runtime.kernels.reductions import spread_f32
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_f32,
    mul,
    prefetch,
    splat_f32,
    store_f32,
    to_f32,
)
from quant.formats import BLOCK, LINE, ROWS, SEGMENT, Coded
from quant.jit import inner

SEGMENT_BLOCKS = SEGMENT // BLOCK


@inner
def head_bytes(blocks):
    """Bytes of a tile's super-scales: see `Coded`."""
    segments = (blocks + SEGMENT_BLOCKS - 1) // SEGMENT_BLOCKS
    return (segments * 2 * ROWS + LINE - 1) // LINE * LINE


@inner
def super_scales(w, at, start, unit):
    """Those of the segment that block `start` is in, of all rows, as weights are to be multiplied by."""
    return mul(load_f16(w, at + start // SEGMENT_BLOCKS * 2 * ROWS, ROWS), splat_f32(unit, ROWS))


def one_of(form: Coded, product: Any) -> Any:
    """Make the kernel for one token from a product of 32 inputs, which `products.py` has."""
    block_bytes, unit = form.block_bytes, np.float32(2.0**-form.exponent)
    half_bytes = (block_bytes - LINE) // 2  # codes of 32 inputs
    ahead = SEGMENT_BLOCKS * block_bytes  # from the codes in work to those asked for; half of it is 10% slower

    @inner
    def one(w, at, blocks, q, scale, sums, t, out, o):
        """One token: out[o : o + 16] += tile · token t, weights going from the look-up straight into the product."""
        body = at + head_bytes(blocks)
        result = load_f32(out, o, ROWS)
        for start in range(0, blocks, SEGMENT_BLOCKS):
            super_scale = super_scales(w, at, start, unit)
            for block in range(start, min(start + SEGMENT_BLOCKS, blocks)):
                block_at = body + block * block_bytes
                for line in range(0, block_bytes, LINE):
                    prefetch(w, block_at + ahead + line)
                for half in range(2):
                    x = t * q.shape[1] + BLOCK * block + 32 * half
                    meta, codes = block_at + 2 * ROWS * half, block_at + LINE + half_bytes * half
                    total = product(w, meta, codes, q, x, sums, t, 4 * block + 2 * half)
                    both_scales = mul(super_scale, spread_f32(scale, t * scale.shape[1] + 2 * block + half, ROWS))
                    result = fma(to_f32(total), both_scales, result)
        store_f32(out, o, result)

    return one
