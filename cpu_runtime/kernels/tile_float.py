"""A block of bf16 or f32 times float activations; shapes as in `tile.py`."""

from __future__ import annotations

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.vectors import (
    fma,
    load_bf16,
    load_f32,
    splat_f32,
    store_f32,
)
from quant.formats import BLOCK, ROWS
from quant.jit import inner


@inner
def add_bf16_block(w, at, x, t, i, out, o):
    """out[o : o + 16] += block · the 64 activations of token t from input i."""
    for row in range(0, ROWS, LANES):
        total = load_f32(out, o + row, LANES)
        for c in range(BLOCK):
            total = fma(load_bf16(w, at + 2 * (ROWS * c + row), LANES), splat_f32(x[t, i + c], LANES), total)
        store_f32(out, o + row, total)


@inner
def add_f32_block(w, at, x, t, i, out, o):
    """out[o : o + 16] += block · the 64 activations of token t from input i."""
    for row in range(0, ROWS, LANES):
        total = load_f32(out, o + row, LANES)
        for c in range(BLOCK):
            total = fma(load_f32(w, at + 4 * (ROWS * c + row), LANES), splat_f32(x[t, i + c], LANES), total)
        store_f32(out, o + row, total)
