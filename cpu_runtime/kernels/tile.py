"""One tile of a matrix (16 rows) times activations, in each block format of `quant/formats.py`.

`tile_product` is the only entry. It goes through the tile block by block and, within a block, token by token, so
that a block's weights are read from memory once for however many tokens there are. One token alone takes a shorter way
through q4. A token's sums are added in the same order whatever its company: a prompt computed at once equals one
computed token by token. Products within 32 inputs are integers below 2^24, exact in float32.

Shapes: w any C-contiguous u8 array, `at` the tile's first byte in it · blocks of 64 inputs, Cp = 64 * blocks
        x [T, Cp] f32, or the same quantized: q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16] i32
        tokens [P] i32, the activation row of each product · out [P, whole tiles of rows] f32
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.tile_float import add_bf16_block, add_f32_block
from cpu_runtime.kernels.tile_k4 import K4_BLOCK, add_k4_block, ask_for_k4_block
from cpu_runtime.kernels.tile_q4 import many_q4, one_q4
from cpu_runtime.kernels.tile_q8 import Q8_BLOCK, add_q8_block
from quant.formats import BLOCK, FORMATS, ROWS
from quant.jit import kernel

BF16_ID, Q8_ID, Q4_ID, K4_ID = (FORMATS[name].id for name in ("bf16", "q8", "q4", "k4"))
READS_INT8 = frozenset({Q8_ID, Q4_ID, K4_ID})  # formats whose product takes quantized activations
_ZERO = np.float32(0)


@kernel
def tile_product(format_id, w, at, blocks, x, q, scale, sums, tokens, first, last, out, column):
    """out[p, column : column + 16] = tile · activations of token tokens[p], for p = first .. last - 1.

    Formats of READS_INT8 read q, scale and sums, the others x.
    """
    if first == last:
        return
    for p in range(first, last):
        out[p, column : column + ROWS] = _ZERO
    if format_id == Q4_ID and last - first == 1:
        one_q4(w, at, blocks, q, scale, sums, tokens[first], out, first * out.shape[1] + column)
    elif format_id == Q4_ID:
        many_q4(w, at, blocks, q, scale, sums, tokens, first, last, out, column)
    elif format_id == Q8_ID:
        for block in range(blocks):
            for p in range(first, last):
                add_q8_block(w, at, block, q, scale, sums, tokens[p], out, p * out.shape[1] + column)
            at += Q8_BLOCK
    elif format_id == K4_ID:
        for block in range(blocks):
            ask_for_k4_block(w, at)
            for p in range(first, last):
                add_k4_block(w, at, block, q, scale, sums, tokens[p], out, p * out.shape[1] + column)
            at += K4_BLOCK
    elif format_id == BF16_ID:
        for block in range(blocks):
            for p in range(first, last):
                add_bf16_block(w, at, x, tokens[p], BLOCK * block, out, p * out.shape[1] + column)
            at += BLOCK * ROWS * 2
    else:
        for block in range(blocks):
            for p in range(first, last):
                add_f32_block(w, at, x, tokens[p], BLOCK * block, out, p * out.shape[1] + column)
            at += BLOCK * ROWS * 4
