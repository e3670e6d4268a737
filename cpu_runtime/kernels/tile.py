"""Tiles of a matrix (16 rows each) times activations, in each block format of `quant/formats.py`.

One token alone meets a tile's weights as they lie; for several, formats that take integers are unpacked a panel at a
time and multiplied with all of them, so that a weight is read from memory once for however many tokens there are. A
token's sums are added in the same order whatever its company: a prompt computed at once equals one computed token by
token. Products within 32 inputs add up to an int32, which becomes a float once.

Shapes: w any C-contiguous u8 array, `at` the tile's first byte in it · blocks of 64 inputs, Cp = 64 * blocks
        x [T, Cp] f32, or the same quantized: q [T, Cp] i8, scale [T, Cp/32] f32, sums [T, Cp/16, 2] i16
        packs as in `packs.py`, the same for the panels of several tokens
        tokens [P] i32, the activation row of each product · out [P, whole tiles of rows] f32
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cpu_runtime.kernels.byte_panel import FACTOR, PANEL, SCALES, add_scaled, multiply_bytes, multiply_bytes_grouped
from cpu_runtime.kernels.cpu import DOTS
from cpu_runtime.kernels.dot_panel import multiply_whole
from cpu_runtime.kernels.stack import arrays_on_stack
from cpu_runtime.kernels.tile_float import add_bf16_block, add_bf16_blocks, add_f32_block, add_f32_blocks
from cpu_runtime.kernels.tile_k4 import unpack_k4
from cpu_runtime.kernels.tile_q4c import unpack_q4c
from cpu_runtime.kernels.tile_q8 import unpack_q8, unpack_q8_bytes
from cpu_runtime.kernels.tile_segments import unpack_q3, unpack_q4
from cpu_runtime.kernels.tile_single import (
    BF16_ID,
    K4_ID,
    LOWEST_INT8,
    Q4_ID,
    Q4C_ID,
    Q5_ID,
    Q6_ID,
    Q8_ID,
    single_products,
)
from cpu_runtime.kernels.tile_wide import unpack_q5, unpack_q6
from cpu_runtime.kernels.upcoming import Upcoming
from cpu_runtime.kernels.vectors import load_f32, store_f32
from cpu_runtime.kernels.wide_panel import multiply_wide
from quant.formats import BLOCK, ROWS, SEGMENT
from quant.jit import inner

READS_WIDE = (Q5_ID, Q6_ID) if DOTS else (Q5_ID, Q6_ID, Q8_ID)  # formats that several tokens meet as int16
_PANEL_BLOCKS = SEGMENT // BLOCK
AT_ONCE = 64  # tokens that share an unpacked panel: their sums stay in the first cache, their activations in the second
_ZERO = np.float32(0)


class Room(NamedTuple):
    """Where one thread unpacks panels and adds up: arrays as in `byte_panel.py` and `wide_panel.py`."""

    bytes: np.ndarray
    wide: np.ndarray
    factors: np.ndarray
    scales: np.ndarray
    totals: np.ndarray  # [tokens at once, 16] f32, flat
    segment: np.ndarray  # the same: what is not multiplied by its row's scale yet


new_room = arrays_on_stack(  # new_room() -> a thread's
    Room,
    (PANEL, np.uint8),
    (PANEL, np.int16),
    (FACTOR.size, FACTOR.dtype.type),
    (SCALES, np.float32),
    (AT_ONCE * ROWS, np.float32),
    (AT_ONCE * ROWS, np.float32),
)


@inner
def tile_products(
    format_id, w, at, size, count, blocks, x, q, packs, scale, sums, tokens, first, last, out, column, room
):
    """out[p, column : column + 16 count] = `count` tiles · activations of token tokens[p], for p = first .. last - 1.

    Tiles are of `size` bytes, one after another. Some tokens at a time meet all of them, so that these tokens'
    activations stay in the second cache. Formats of READS_INT8 read q, packs, scale and sums, the others x.
    """
    if last - first == 1:
        o = first * out.shape[1] + column
        single_products(format_id, w, at, size, count, blocks, x, q, scale, sums, tokens[first], out, o)
    elif format_id < LOWEST_INT8:
        for n in range(count):
            _float_product(format_id, w, at + n * size, blocks, x, tokens, first, last, out, column + ROWS * n)
    else:
        for p in range(first, last, AT_ONCE):
            few = tokens[p : min(p + AT_ONCE, last)]
            for n in range(count):
                if format_id in READS_WIDE:
                    _by_wide_panels(format_id, w, at + n * size, size, blocks, packs, few, room)
                else:
                    _by_byte_panels(format_id, w, at + n * size, size, blocks, packs, few, room)
                o = p * out.shape[1] + column + ROWS * n
                for t in range(few.size):
                    store_f32(out, o + t * out.shape[1], load_f32(room.totals, ROWS * t, ROWS))


@inner
def _by_byte_panels(format_id, w, at, size, blocks, packs, tokens, room):
    """The product with a few tokens, in the totals of the room, for all formats but READS_WIDE."""
    panel, factors, scales, totals, segment = room.bytes, room.factors, room.scales, room.totals, room.segment
    totals[: ROWS * tokens.size] = segment[: ROWS * tokens.size] = _ZERO
    for start in range(0, blocks, _PANEL_BLOCKS):
        end = min(start + _PANEL_BLOCKS, blocks)
        groups, x, upcoming = 2 * (end - start), BLOCK * start, _next_panel(w, at, size, blocks, end, tokens.size)
        if format_id == Q4_ID:
            unpack_q4(w, at, blocks, start, end, panel, factors, scales)
        elif format_id == K4_ID:
            unpack_k4(w, at, start, end, panel, factors, scales)
        elif format_id == Q4C_ID:
            unpack_q4c(w, at, start, end, panel, factors, scales)
        elif DOTS and format_id == Q8_ID:
            unpack_q8_bytes(w, at, start, end, panel, scales)
        else:
            unpack_q3(w, at, blocks, start, end, panel, factors, scales)
        if format_id == K4_ID:
            multiply_bytes_grouped(panel, factors, scales, groups, x, packs, tokens, totals, upcoming)
        elif DOTS and format_id == Q8_ID:
            multiply_whole(panel, factors, scales, groups, x, packs, tokens, totals, upcoming)
        else:
            multiply_bytes(panel, factors, scales, groups, x, packs, tokens, segment, upcoming)
            add_scaled(segment, scales, totals, ROWS * tokens.size)


@inner
def _by_wide_panels(format_id, w, at, size, blocks, packs, tokens, room):
    """The same for those."""
    panel, scales, totals = room.wide, room.scales, room.totals
    totals[: ROWS * tokens.size] = _ZERO
    for start in range(0, blocks, _PANEL_BLOCKS):
        end = min(start + _PANEL_BLOCKS, blocks)
        if format_id == Q8_ID:
            unpack_q8(w, at, start, end, panel, scales)
        elif format_id == Q5_ID:
            unpack_q5(w, at, start, end, panel, scales)
        else:
            unpack_q6(w, at, start, end, panel, scales)
        upcoming = _next_panel(w, at, size, blocks, end, tokens.size)
        multiply_wide(panel, scales, 2 * (end - start), BLOCK * start, packs, tokens, totals, upcoming)


@inner
def _next_panel(w, at, size, blocks, block, tokens):
    """What the panel of blocks `block` and further is unpacked from, in shares for every four of the tokens.

    At a tile's end it is the next tile's first.
    """
    per_block = size // blocks
    return Upcoming(w, at + block * per_block, min(blocks, _PANEL_BLOCKS) * per_block // (tokens // 4 + 1))


@inner
def _float_product(format_id, w, at, blocks, x, tokens, first, last, out, column):
    """Block by block and, within a block, four tokens or one at a time."""
    for p in range(first, last):
        out[p, column : column + ROWS] = _ZERO
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
