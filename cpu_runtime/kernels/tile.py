"""One tile of a matrix (16 rows) times activations, in each block format of `quant/formats.py`.

`tile_product` is the only entry. One token alone meets a tile's weights as they lie; for several, formats that take
integers are unpacked a panel at a time and multiplied with all of them, so that a weight is read from memory once for
however many tokens there are. A token's sums are added in the same order whatever its company: a prompt computed at
once equals one computed token by token. Products within 32 inputs add up to an int32, which becomes a float once.

Shapes: w any C-contiguous u8 array, `at` the tile's first byte in it · blocks of 64 inputs, Cp = 64 * blocks
        x [T, Cp] f32, or the same quantized: q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16] i32
        wide [T, Cp] i16, q as panels want it, read only for several tokens
        tokens [P] i32, the activation row of each product · out [P, whole tiles of rows] f32
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.panel import PANEL, SCALES, multiply
from cpu_runtime.kernels.tile_float import add_bf16_block, add_bf16_blocks, add_f32_block, add_f32_blocks
from cpu_runtime.kernels.tile_k4 import one_k4, unpack_k4
from cpu_runtime.kernels.tile_q4c import one_q4c, unpack_q4c
from cpu_runtime.kernels.tile_q8 import one_q8, unpack_q8
from cpu_runtime.kernels.tile_segments import one_q3, one_q4, unpack_q3, unpack_q4
from cpu_runtime.kernels.tile_wide import one_q5, one_q6, unpack_q5, unpack_q6
from quant.formats import BLOCK, FORMATS, ROWS, SEGMENT
from quant.jit import inner

BF16_ID, K4_ID = FORMATS["bf16"].id, FORMATS["k4"].id
Q3_ID, Q4_ID, Q4C_ID, Q5_ID, Q6_ID, Q8_ID = (FORMATS[name].id for name in ("q3", "q4", "q4c", "q5", "q6", "q8"))
# Formats whose product takes quantized activations.
READS_INT8 = frozenset({Q3_ID, Q4_ID, Q4C_ID, Q5_ID, Q6_ID, Q8_ID, K4_ID})
_LOWEST_INT8 = min(READS_INT8)  # the formats before it are of floats
_PANEL_BLOCKS = SEGMENT // BLOCK
_ZERO = np.float32(0)


@inner
def tile_product(format_id, w, at, blocks, x, q, wide, scale, sums, tokens, first, last, out, column):
    """out[p, column : column + 16] = tile · activations of token tokens[p], for p = first .. last - 1.

    Formats of READS_INT8 read q, wide, scale and sums, the others x.
    """
    for p in range(first, last):
        out[p, column : column + ROWS] = _ZERO
    if format_id < _LOWEST_INT8:
        _float_product(format_id, w, at, blocks, x, tokens, first, last, out, column)
    elif last - first == 1:
        _one_token(format_id, w, at, blocks, q, scale, sums, tokens[first], out, first * out.shape[1] + column)
    elif last > first:
        panel, scales = np.empty(PANEL, np.int16), np.empty(SCALES, np.float32)
        for start in range(0, blocks, _PANEL_BLOCKS):
            end = min(start + _PANEL_BLOCKS, blocks)
            _unpack(format_id, w, at, blocks, start, end, panel, scales)
            multiply(panel, scales, 2 * (end - start), BLOCK * start, wide, scale, tokens, first, last, out, column)


@inner
def _one_token(format_id, w, at, blocks, q, scale, sums, t, out, o):
    if format_id == Q4_ID:
        one_q4(w, at, blocks, q, scale, sums, t, out, o)
    elif format_id == Q8_ID:
        one_q8(w, at, blocks, q, scale, sums, t, out, o)
    elif format_id == K4_ID:
        one_k4(w, at, blocks, q, scale, sums, t, out, o)
    elif format_id == Q4C_ID:
        one_q4c(w, at, blocks, q, scale, sums, t, out, o)
    elif format_id == Q3_ID:
        one_q3(w, at, blocks, q, scale, sums, t, out, o)
    elif format_id == Q5_ID:
        one_q5(w, at, blocks, q, scale, sums, t, out, o)
    else:
        one_q6(w, at, blocks, q, scale, sums, t, out, o)


@inner
def _unpack(format_id, w, at, blocks, start, end, panel, scales):
    if format_id == Q4_ID:
        unpack_q4(w, at, blocks, start, end, panel, scales)
    elif format_id == Q8_ID:
        unpack_q8(w, at, start, end, panel, scales)
    elif format_id == K4_ID:
        unpack_k4(w, at, start, end, panel, scales)
    elif format_id == Q4C_ID:
        unpack_q4c(w, at, start, end, panel, scales)
    elif format_id == Q3_ID:
        unpack_q3(w, at, blocks, start, end, panel, scales)
    elif format_id == Q5_ID:
        unpack_q5(w, at, start, end, panel, scales)
    else:
        unpack_q6(w, at, start, end, panel, scales)


@inner
def _float_product(format_id, w, at, blocks, x, tokens, first, last, out, column):
    """Block by block and, within a block, four tokens or one at a time."""
    width = out.shape[1]
    for block in range(blocks):
        i, p = BLOCK * block, first
        while p + 4 <= last:
            t0, t1, t2, t3, o = tokens[p], tokens[p + 1], tokens[p + 2], tokens[p + 3], p * width + column
            if format_id == BF16_ID:
                add_bf16_blocks(w, at, x, t0, t1, t2, t3, i, out, o)
            else:
                add_f32_blocks(w, at, x, t0, t1, t2, t3, i, out, o)
            p += 4
        while p < last:
            if format_id == BF16_ID:
                add_bf16_block(w, at, x, tokens[p], i, out, p * width + column)
            else:
                add_f32_block(w, at, x, tokens[p], i, out, p * width + column)
            p += 1
        at += BLOCK * ROWS * (2 if format_id == BF16_ID else 4)
