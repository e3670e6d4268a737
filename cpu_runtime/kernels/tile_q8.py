"""A tile of q8 times int8 activations, or as a panel; shapes as in `tile.py` and `wide_panel.py`."""

from __future__ import annotations

from cpu_runtime.kernels.activations import too_much
from cpu_runtime.kernels.cpu import OFFSET
from cpu_runtime.kernels.integers import biased, dot
from cpu_runtime.kernels.tile_pair import products_of
from cpu_runtime.kernels.upcoming import ask_before_half
from cpu_runtime.kernels.vectors import (
    fma,
    load_f16,
    load_i8,
    mul,
    splat4,
    splat_f32,
    splat_i32,
    store_f32,
    store_i8,
    to_f32,
)
from cpu_runtime.kernels.wide_panel import put
from quant.formats import BLOCK, LINE, Q8, ROWS
from quant.jit import inner

Q8_BLOCK = Q8.BLOCK_BYTES
_FIRST_BYTES = 9 * LINE  # asked for before the first 32 inputs
AHEAD = Q8_BLOCK  # bytes from the block in work to the one asked for: on Zen more is a tenth slower, on Intel the same


@inner
def _add_block(total, w, at, blocks, block, q, scale, sums, t):
    at = at + block * Q8_BLOCK
    for g in range(2):
        at = ask_before_half(g, w, at, AHEAD, _FIRST_BYTES, Q8_BLOCK)
        x, s = t * q.shape[1] + BLOCK * block + 32 * g, 4 * block + 2 * g
        group = splat_i32(too_much(OFFSET, sums, t, s) + too_much(OFFSET, sums, t, s + 1), ROWS)
        for i in range(8):
            weights = biased(load_i8(w, at + LINE * (1 + 8 * g + i), LINE))
            group = dot(group, weights, splat4(q, x + 4 * i, ROWS))
        both_scales = mul(load_f16(w, at + 2 * ROWS * g, ROWS), splat_f32(scale[t, 2 * block + g], ROWS))
        total = fma(to_f32(group), both_scales, total)
    return total


one_q8 = products_of(_add_block)


@inner
def unpack_q8(w, at, start, end, panel, scales):
    """Blocks start .. end - 1 of the tile as a wide panel."""
    for block in range(end - start):
        block_at = at + (start + block) * Q8_BLOCK
        _unpack_scales(w, block_at, block, scales)
        for i in range(0, BLOCK, 4):
            put(panel, BLOCK * block + i, 0, load_i8(w, block_at + LINE * (1 + i // 4), LINE))


@inner
def unpack_q8_bytes(w, at, start, end, panel, scales):
    """The same as a panel of bytes, OFFSET higher; they lie as a panel has them."""
    for block in range(end - start):
        block_at = at + (start + block) * Q8_BLOCK
        _unpack_scales(w, block_at, block, scales)
        for i in range(0, BLOCK, 4):
            weights = biased(load_i8(w, block_at + LINE * (1 + i // 4), LINE))
            store_i8(panel, ROWS * (BLOCK * block + i), weights)


@inner
def _unpack_scales(w, block_at, block, scales):
    for g in range(2):
        store_f32(scales, ROWS * (2 * block + g), load_f16(w, block_at + 2 * ROWS * g, ROWS))
