"""Tiled matrices times activations, and rows of them read back."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.share import new_counter, run_of, take
from cpu_runtime.kernels.tile import BF16_ID, K4_ID, Q4_ID, Q8_ID, READS_INT8, tile_product
from cpu_runtime.kernels.tile_k4 import K4_BLOCK, ZERO
from cpu_runtime.kernels.tile_q4 import Q4_BLOCK, Q4_UNIT, q4_head
from cpu_runtime.kernels.tile_q8 import Q8_BLOCK
from cpu_runtime.kernels.vectors import read_only
from quant.codebooks import Q4_BOOKS
from quant.formats import BLOCK, LINE, ROWS, SEGMENT
from quant.jit import inner, kernel, parallel_kernel, prange, threads


def matmul(
    format_id: int,
    tiles: np.ndarray,
    x: np.ndarray,
    q: np.ndarray,
    wide: np.ndarray,
    scale: np.ndarray,
    sums: np.ndarray,
    out: np.ndarray,
) -> None:
    """out = x @ W.T for a matrix W of whole tiles.

    Shapes: tiles [n, tile_bytes] u8 · out [T, 16 n] f32 · activations as in `tile.py`: x, or q, wide, scale and sums.
    """
    blocks = (q if format_id in READS_INT8 else x).shape[1] // BLOCK
    _matmul(threads(), format_id, tiles, blocks, x, q, wide, scale, sums, np.arange(out.shape[0], dtype=np.int32), out)


@parallel_kernel
def _matmul(n_threads, format_id, tiles, blocks, x, q, wide, scale, sums, tokens, out):
    w = read_only(tiles)
    counter = new_counter()
    for _ in prange(n_threads):
        _share(counter, n_threads, format_id, w, tiles.shape[1], blocks, x, q, wide, scale, sums, tokens, out)


@inner
def _share(counter, n_threads, format_id, w, tile_bytes, blocks, x, q, wide, scale, sums, tokens, out):
    """One thread's tiles."""
    n = out.shape[1] // ROWS
    few = run_of(tile_bytes, n, n_threads) if tokens.size == 1 else 1
    while True:
        first = take(counter, few)
        if first >= n:
            break
        for tile in range(first, min(first + few, n)):
            at = tile * tile_bytes
            tile_product(format_id, w, at, blocks, x, q, wide, scale, sums, tokens, 0, tokens.size, out, ROWS * tile)


def read_rows(format_id: int, tiles: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    """out[t] = row ids[t] of a matrix of whole tiles: an embedding.

    Shapes: tiles [n, tile_bytes] u8 · ids [T] i64 · out [T, Cp] f32, Cp a whole number of blocks
    """
    _read_rows(format_id, tiles, ids, out)


@kernel
def _read_rows(format_id, tiles, ids, out):
    w = read_only(tiles)
    for t in range(ids.size):
        tile, r = w[ids[t] // ROWS], ids[t] % ROWS
        if format_id == Q4_ID:
            _read_q4(tile, r, out[t])
        elif format_id == Q8_ID:
            _read_q8(tile, r, out[t])
        elif format_id == K4_ID:
            _read_k4(tile, r, out[t])
        else:
            _read_float(tile, r, 2 if format_id == BF16_ID else 4, out[t])


@inner
def _read_q4(tile, r, out):
    head = q4_head(out.size // BLOCK)
    for c in range(out.size):
        block = head + c // BLOCK * Q4_BLOCK
        meta = np.int8(tile[block + ROWS * (c % BLOCK // 16) + r])
        code = _nibble(tile, block, r, c % BLOCK)
        super_scale = _half(tile, c // SEGMENT * 2 * ROWS + 2 * r) * Q4_UNIT
        out[c] = np.float32(np.int32(Q4_BOOKS[meta & 3, code]) * np.int32(meta >> 2)) * super_scale


@inner
def _read_k4(tile, r, out):
    for c in range(out.size):
        block = c // BLOCK * K4_BLOCK
        at = block + c % BLOCK // 32 * 2 * ROWS + 2 * r
        bits = np.uint32(tile[at]) << np.uint32(16) | np.uint32(tile[at + 1]) << np.uint32(24)
        out[c] = np.float32(np.int32(_nibble(tile, block, r, c % BLOCK)) - ZERO) * np.uint32(bits).view(np.float32)


@inner
def _nibble(tile, block, r, i):
    """The code of input i of the block of 4-bit codes that begins with a line of something else."""
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
    bits = np.uint32(tile[at]) | np.uint32(tile[at + 1]) << np.uint32(8)
    if bits < np.uint32(0x400):  # subnormal
        return np.float32(bits) * np.float32(2.0**-24)
    return np.uint32((bits << np.uint32(13)) + np.uint32(0x38000000)).view(np.float32)
