"""One row of a tile back as floats, a weight at a time: what an embedding is."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.tile_k4 import K4_BLOCK, ZERO
from cpu_runtime.kernels.tile_q4c import Q4C_BLOCK, Q4C_HEAD, Q4C_UNIT
from cpu_runtime.kernels.tile_q8 import Q8_BLOCK
from cpu_runtime.kernels.tile_segments import Q3_BLOCK, Q4_BLOCK, UNIT, head_bytes
from cpu_runtime.kernels.tile_single import BF16_ID, K4_ID, Q3_ID, Q4_ID, Q4C_ID, Q5_ID, Q6_ID, Q8_ID
from cpu_runtime.kernels.tile_wide import Q5_BLOCK, Q6_BLOCK, WIDE_HEAD, WIDE_UNIT
from quant.codebooks import Q3_BOOKS, Q4_BOOKS, Q4C_BOOKS, Q5_BOOK, Q6_BOOK
from quant.formats import BLOCK, LINE, PLACES, ROWS, SEGMENT, STRIP
from quant.half import half_value
from quant.jit import inner

_PLACES = np.array(PLACES)
_HALF = STRIP // 2  # bytes of a row of a strip


@inner
def read_row(format_id, tile, r, out):
    """out = row r of the tile.

    Shapes: tile [bytes] u8 · out [Cp] f32, a whole number of blocks
    """
    if format_id == Q4_ID:
        _read_q4(tile, r, out)
    elif format_id == Q8_ID:
        _read_q8(tile, r, out)
    elif format_id == K4_ID:
        _read_k4(tile, r, out)
    elif format_id == Q4C_ID:
        _read_q4c(tile, r, out)
    elif format_id == Q3_ID:
        _read_q3(tile, r, out)
    elif format_id == Q5_ID:
        _read_wide(tile, r, Q5_BLOCK, Q5_BOOK, 1, out)
    elif format_id == Q6_ID:
        _read_wide(tile, r, Q6_BLOCK, Q6_BOOK, 2, out)
    else:
        _read_float(tile, r, 2 if format_id == BF16_ID else 4, out)


@inner
def _read_q3(tile, r, out):
    head = head_bytes(out.size // BLOCK)
    for c in range(out.size):
        block = head + c // BLOCK * Q3_BLOCK
        meta = np.int8(tile[block + ROWS * (c % BLOCK // 16) + r])
        eight = block + LINE + 3 * LINE * (c % BLOCK // STRIP) + 6 * _HALF * (r // 8)
        place, shift = _PLACES[r] % 8, 4 * (c % STRIP // _HALF)
        if place < 6:
            code = tile[eight + _HALF * place + c % _HALF] >> shift & 7
        else:
            at, spare = eight + _HALF * (place - 6) + c % _HALF, shift + 3
            code = tile[at] >> spare & 1
            code |= (tile[at + 2 * _HALF] >> spare & 1) << 1 | (tile[at + 4 * _HALF] >> spare & 1) << 2
        super_scale = _half(tile, c // SEGMENT * 2 * ROWS + 2 * r) * UNIT
        out[c] = np.float32(np.int32(Q3_BOOKS[meta & 7, code]) * np.int32(meta >> 3)) * super_scale


@inner
def _read_q4(tile, r, out):
    head = head_bytes(out.size // BLOCK)
    for c in range(out.size):
        block = head + c // BLOCK * Q4_BLOCK
        meta = np.int8(tile[block + ROWS * (c % BLOCK // 16) + r])
        code = _strip_code(tile, block, r, c % BLOCK)
        super_scale = _half(tile, c // SEGMENT * 2 * ROWS + 2 * r) * UNIT
        out[c] = np.float32(np.int32(Q4_BOOKS[meta & 3, code]) * np.int32(meta >> 2)) * super_scale


@inner
def _read_q4c(tile, r, out):
    super_scale = _half(tile, 2 * r) * Q4C_UNIT
    for c in range(out.size):
        block, i = Q4C_HEAD + c // 128 * Q4C_BLOCK, c % 128
        meta = np.int8(tile[block + ROWS * (i // 32) + r])
        code = _strip_code(tile, block, r, i)
        out[c] = np.float32(np.int32(Q4C_BOOKS[meta & 3, code]) * np.int32(meta >> 2)) * super_scale


@inner
def _read_wide(tile, r, block_bytes, book, more, out):
    """q5 or q6, whose codes have one or two bits `more` beside the nibble."""
    super_scale = _half(tile, 2 * r) * WIDE_UNIT
    for c in range(out.size):
        block, i = WIDE_HEAD + c // BLOCK * block_bytes, c % BLOCK
        bit = i // 4 * more  # of the lines of further bits, a byte of each for an input of a row
        above = tile[block + LINE * (9 + bit // 8) + 4 * r + i % 4] >> bit % 8 & (1 << more) - 1
        scale = np.int32(np.int8(tile[block + ROWS * (i // 16) + r]))
        out[c] = np.float32(np.int32(book[0, _nibble(tile, block, r, i) | above << 4]) * scale) * super_scale


@inner
def _read_k4(tile, r, out):
    for c in range(out.size):
        block = c // BLOCK * K4_BLOCK
        at = block + c % BLOCK // 32 * 2 * ROWS + 2 * r
        bits = np.uint32(tile[at]) << np.uint32(16) | np.uint32(tile[at + 1]) << np.uint32(24)
        out[c] = np.float32(np.int32(_nibble(tile, block, r, c % BLOCK)) - ZERO) * np.uint32(bits).view(np.float32)


@inner
def _strip_code(tile, block, r, i):
    """The code of input i of a block of q4 or q4c."""
    at = block + LINE + 4 * LINE * (i // STRIP) + _HALF * _PLACES[r] + i % _HALF
    return tile[at] >> (i % STRIP // _HALF * 4) & 15


@inner
def _nibble(tile, block, r, i):
    """Four bits of the code of input i of a block whose codes lie by quads, after a line of something else."""
    return tile[block + LINE * (1 + i // 8) + 4 * r + i % 4] >> (4 * (i // 4 % 2)) & 15


@inner
def _read_q8(tile, r, out):
    for c in range(out.size):
        block, i = c // BLOCK * Q8_BLOCK, c % BLOCK
        code = np.int8(tile[block + LINE * (1 + i // 4) + 4 * r + i % 4])
        out[c] = np.float32(code) * _half(tile, block + i // 32 * 2 * ROWS + 2 * r)


@inner
def _read_float(tile, r, width, out):
    """bf16 (2 bytes wide) is the upper half of an f32 (4 bytes)."""
    for c in range(out.size):
        bits = np.uint32(0)
        for byte in range(width):
            bits |= np.uint32(tile[(ROWS * c + r) * width + byte]) << np.uint32(8 * (4 - width + byte))
        out[c] = np.uint32(bits).view(np.float32)


@inner
def _half(tile, at):
    """The float16 of at least 0 in two bytes."""
    return half_value(np.uint32(tile[at]) | np.uint32(tile[at + 1]) << np.uint32(8))
