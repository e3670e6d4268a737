"""A block of q8 times int8 activations, or as a panel; shapes as in `tile.py` and `panel.py`."""

from __future__ import annotations

from cpu_runtime.kernels.cpu import LANES, OFFSET
from cpu_runtime.kernels.panel import put
from cpu_runtime.kernels.vectors import (
    biased,
    dot,
    fma,
    load_f16,
    load_f32,
    load_i8,
    mul,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    to_f32,
)
from quant.formats import BLOCK, LINE, Q8, ROWS
from quant.jit import kernel

Q8_BLOCK = Q8.BLOCK_BYTES
BYTES = 4 * LANES  # of a line, that one vector of int32 lanes covers


@kernel
def add_q8_block(w, at, block, q, scale, sums, t, out, o):
    """out[o : o + 16] += block · token t."""
    x, s = t * q.shape[1] + BLOCK * block, 4 * block
    for row in range(0, ROWS, LANES):
        total = load_f32(out, o + row, LANES)
        for g in range(2):
            group = splat_i32(-OFFSET * (sums[t, s + 2 * g] + sums[t, s + 2 * g + 1]), LANES)
            for i in range(8 * g, 8 * g + 8):
                weights = biased(load_i8(w, at + LINE * (1 + i) + 4 * row, BYTES))
                group = dot(group, weights, splat4(q, x + 4 * i, LANES))
            both_scales = mul(
                load_f16(w, at + 2 * ROWS * g + 2 * row, LANES), splat_f32(scale[t, 2 * block + g], LANES)
            )
            total = fma(to_f32(group), both_scales, total)
        store_f32(out, o + row, total)


@kernel
def unpack_q8(w, at, start, end, panel, scales):
    """Blocks start .. end - 1 of the tile as a panel."""
    for block in range(end - start):
        block_at = at + (start + block) * Q8_BLOCK
        for g in range(2):
            store_f32(scales, ROWS * (2 * block + g), load_f16(w, block_at + 2 * ROWS * g, ROWS))
        for i in range(0, BLOCK, 4):
            put(panel, BLOCK * block + i, 0, load_i8(w, block_at + LINE * (1 + i // 4), LINE))
