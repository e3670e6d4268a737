"""Tiled matrices times activations, and rows of them read back."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.share import new_counter, take_stretch
from cpu_runtime.kernels.stored_row import read_row
from cpu_runtime.kernels.tile import AT_ONCE, new_room, tile_products
from cpu_runtime.kernels.tile_single import LOWEST_INT8
from cpu_runtime.kernels.vectors import read_only
from quant.formats import BLOCK, ROWS
from quant.jit import inner, kernel, parallel_kernel, prange, threads

_FIRST = np.zeros(1, np.int32)


def matmul(
    format_id: int,
    tiles: np.ndarray,
    x: np.ndarray,
    q: np.ndarray,
    packs: np.ndarray,
    scale: np.ndarray,
    sums: np.ndarray,
    out: np.ndarray,
) -> None:
    """out = x @ W.T for a matrix W of whole tiles.

    Shapes: tiles [n, tile_bytes] u8 · out [T, 16 n] f32 · activations as in `tile.py`: x, or q, packs, scale and sums.
    """
    tokens = _FIRST if len(out) == 1 else np.arange(len(out), dtype=np.int32)
    _matmul(threads(), format_id, tiles, x, q, packs, scale, sums, tokens, out)


@parallel_kernel
def _matmul(n_threads, format_id, tiles, x, q, packs, scale, sums, tokens, out):
    w = read_only(tiles)
    blocks = (q.shape[1] if format_id >= LOWEST_INT8 else x.shape[1]) // BLOCK
    counter = new_counter()
    for _ in prange(n_threads):
        _share(counter, n_threads, format_id, w, tiles.shape[1], blocks, x, q, packs, scale, sums, tokens, out)


@inner
def _share(counter, n_threads, format_id, w, tile_bytes, blocks, x, q, packs, scale, sums, tokens, out):
    """One thread's tiles, for some tokens after others: the last stretch would be long if it were for all."""
    n, room = out.shape[1] // ROWS, new_room()
    items = n * ((tokens.size + AT_ONCE - 1) // AT_ONCE)
    while True:
        item, end = take_stretch(counter, items, tile_bytes, n_threads)
        if item >= items:
            break
        while item < end:
            first, tile = item // n * AT_ONCE, item % n
            last, count = min(first + AT_ONCE, tokens.size), min(n - tile, end - item)
            tile_products(
                format_id, w, tile * tile_bytes, tile_bytes, count, blocks,
                x, q, packs, scale, sums, tokens, first, last, out, ROWS * tile, room,
            )  # fmt: skip
            item += count


def read_rows(format_id: int, tiles: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    """out[t] = row ids[t] of a matrix of whole tiles: an embedding.

    Shapes: tiles [n, tile_bytes] u8 · ids [T] i64 · out [T, Cp] f32, Cp a whole number of blocks
    """
    _read_rows(format_id, tiles, ids, out)


@kernel
def _read_rows(format_id, tiles, ids, out):
    w = read_only(tiles)
    for t in range(ids.size):
        read_row(format_id, w[ids[t] // ROWS], ids[t] % ROWS, out[t])
