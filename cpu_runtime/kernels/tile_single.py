"""Tiles of a matrix times one token, their weights met as they lie; shapes as in `tile.py`."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.tile_float import add_bf16_block, add_f32_block
from cpu_runtime.kernels.tile_k4 import one_k4
from cpu_runtime.kernels.tile_q4c import one_q4c
from cpu_runtime.kernels.tile_q8 import one_q8
from cpu_runtime.kernels.tile_segments import one_q3, one_q4
from cpu_runtime.kernels.tile_wide import one_q5, one_q6
from cpu_runtime.kernels.vectors import splat_f32, store_f32
from quant.formats import BLOCK, FORMATS, ROWS
from quant.jit import inner

BF16_ID, K4_ID = FORMATS["bf16"].id, FORMATS["k4"].id
Q3_ID, Q4_ID, Q4C_ID, Q5_ID, Q6_ID, Q8_ID = (FORMATS[name].id for name in ("q3", "q4", "q4c", "q5", "q6", "q8"))
# Formats whose product takes quantized activations; those before them take floats.
READS_INT8 = frozenset({Q3_ID, Q4_ID, Q4C_ID, Q5_ID, Q6_ID, Q8_ID, K4_ID})
LOWEST_INT8 = min(READS_INT8)
_ZERO = np.float32(0)


@inner
def single_products(format_id, w, at, size, count, blocks, x, q, scale, sums, t, out, o):
    """out[o : o + 16 count] = `count` tiles of `size` bytes each, from byte `at` on, times token t.

    Formats of READS_INT8 read q, scale and sums, the others x.
    """
    if format_id < LOWEST_INT8:
        for n in range(count):
            _float_product(format_id, w, at + n * size, blocks, x, t, out, o + ROWS * n)
    elif format_id == Q4_ID:
        one_q4(w, at, size, count, blocks, q, scale, sums, t, out, o)
    elif format_id == Q8_ID:
        one_q8(w, at, size, count, blocks, q, scale, sums, t, out, o)
    elif format_id == K4_ID:
        one_k4(w, at, size, count, blocks, q, scale, sums, t, out, o)
    elif format_id == Q4C_ID:
        one_q4c(w, at, size, count, blocks, q, scale, sums, t, out, o)
    elif format_id == Q3_ID:
        one_q3(w, at, size, count, blocks, q, scale, sums, t, out, o)
    elif format_id == Q5_ID:
        one_q5(w, at, size, count, blocks, q, scale, sums, t, out, o)
    else:
        one_q6(w, at, size, count, blocks, q, scale, sums, t, out, o)


@inner
def _float_product(format_id, w, at, blocks, x, t, out, o):
    store_f32(out, o, splat_f32(_ZERO, ROWS))
    for block in range(blocks):
        if format_id == BF16_ID:
            add_bf16_block(w, at + block * BLOCK * ROWS * 2, x, t, BLOCK * block, out, o)
        else:
            add_f32_block(w, at + block * BLOCK * ROWS * 4, x, t, BLOCK * block, out, o)
