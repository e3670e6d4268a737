"""A tile of k4 times int8 activations, or as a panel; shapes as in `tile.py` and `byte_panel.py`."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import LIFT, too_much
from cpu_runtime.kernels.byte_panel import put, put_factors
from cpu_runtime.kernels.cpu import ahead
from cpu_runtime.kernels.integers import (
    high_nibbles,
    low_nibbles,
    minus,
    nibble_dot,
)
from cpu_runtime.kernels.packs import HALF
from cpu_runtime.kernels.tile_pair import products_of
from cpu_runtime.kernels.upcoming import ask_before_half
from cpu_runtime.kernels.vectors import (
    fma,
    load_bf16,
    load_i8,
    mul,
    splat4,
    splat_f32,
    splat_i16,
    splat_i32,
    store_f32,
    to_f32,
)
from quant.formats import BLOCK, K4, LINE, ROWS
from quant.jit import inner

K4_BLOCK, ZERO = K4.BLOCK_BYTES, K4.ZERO
_LESS = ZERO - LIFT  # what codes in a panel are too high
_TWICE = 2 * ROWS
_AHEAD = ahead(K4_BLOCK, 8)
_FIRST_BYTES = 5 * LINE  # asked for before the first 32 inputs


@inner
def _add_block(total, w, at, blocks, block, q, scale, sums, t):
    """Codes count as they are; 8 times the inputs' sum is taken off."""
    at = at + block * K4_BLOCK
    for g in range(2):
        at = ask_before_half(g, w, at, _AHEAD, _FIRST_BYTES, K4_BLOCK)
        codes, x, s = at + LINE * (1 + 4 * g), t * q.shape[1] + BLOCK * block + 32 * g, 4 * block + 2 * g
        group = splat_i32(too_much(ZERO, sums, t, s) + too_much(ZERO, sums, t, s + 1), ROWS)
        group = _add_group(group, w, codes, q, x)
        group = _add_group(group, w, codes + 2 * LINE, q, x + 16)
        both_scales = mul(load_bf16(w, at + 2 * ROWS * g, ROWS), splat_f32(scale[t, 2 * block + g], ROWS))
        total = fma(to_f32(group), both_scales, total)
    return total


@inner
def _add_group(total, w, codes_at, q, x):
    """total += the codes of 16 inputs · the token's."""
    a, b = load_i8(w, codes_at, LINE), load_i8(w, codes_at + LINE, LINE)
    return nibble_dot(
        total,
        low_nibbles(a),
        splat4(q, x, ROWS),
        high_nibbles(a),
        splat4(q, x + 4, ROWS),
        low_nibbles(b),
        splat4(q, x + 8, ROWS),
        high_nibbles(b),
        splat4(q, x + 12, ROWS),
    )


one_k4 = products_of(_add_block)


@inner
def unpack_k4(w, at, start, end, panel, factors, scales):
    """Blocks start .. end - 1 of the tile as a panel of bytes, factors being 1."""
    for block in range(end - start):
        block_at = at + (start + block) * K4_BLOCK
        for g in range(2):
            store_f32(scales, ROWS * (2 * block + g), load_bf16(w, block_at + 2 * ROWS * g, ROWS))
        for i in range(BLOCK * block, BLOCK * block + BLOCK, HALF):
            put_factors(factors, i, 0, splat_i16(np.int16(1), _TWICE))
        for line in range(8):
            codes, i = load_i8(w, block_at + LINE * (1 + line), LINE), BLOCK * block + 8 * line
            put(panel, i, 0, minus(low_nibbles(codes), _LESS))
            put(panel, i + 4, 0, minus(high_nibbles(codes), _LESS))
