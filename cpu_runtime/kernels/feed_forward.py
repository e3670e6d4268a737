"""One token through G gated feed-forward networks, down(silu(gate x) * up x), in a single call: most of decoding.

The networks are a layer's active experts, or a shared one. Two passes over the threads: the rows of gate and up that
make 32 hidden numbers, which are activated and quantized while they are at hand, then the rows of down. Bit for bit
what the same steps give that are taken one by one for many tokens.
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import GROUP, quantize_group
from cpu_runtime.kernels.experts import swiglu_row
from cpu_runtime.kernels.share import new_counter, take_stretch
from cpu_runtime.kernels.tile_single import LOWEST_INT8, single_products
from cpu_runtime.kernels.vectors import read_only
from cpu_runtime.workspace import NEW, Workspace
from quant.formats import BLOCK, ROWS
from quant.jit import inner, parallel_kernel, prange, threads

Triple = tuple[int, int, int]
_TILES = GROUP // ROWS  # whose rows make one group of hidden numbers
_HIDDEN = 2 * GROUP + GROUP // 4 + 1 + 2  # f32 that a group of hidden numbers takes, with what it is quantized to


def feed_forward(
    ids: Triple,
    offsets: Triple,
    tile_bytes: Triple,
    n_tiles: Triple,
    gate: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    slots: np.ndarray,
    members: np.ndarray,
    x: np.ndarray,
    q: np.ndarray,
    scale: np.ndarray,
    sums: np.ndarray,
    out: np.ndarray,
    workspace: Workspace = NEW,
) -> None:
    """out[members[g]] = what network g answers to the one token.

    Triples of gate, up and down: format ids, where in a row a matrix begins, bytes of a tile, tiles
    Shapes: gate, up, down [n, bytes] u8, network g's matrices in row slots[g] · slots, members [G] i32
            x, q, scale, sums: one token's, as in tile.py · out [more than any member, whole tiles of D] f32
    """
    width = -(-n_tiles[0] * ROWS // BLOCK) * BLOCK
    hidden = workspace.spare(slots.size * width // GROUP * _HIDDEN)
    _feed_forward(
        threads(), ids, offsets, tile_bytes, n_tiles, gate, up, down, slots, members, x, q, scale, sums, width, hidden,
        out,
    )  # fmt: skip


@parallel_kernel
def _feed_forward(
    n_threads, ids, offsets, tile_bytes, n_tiles, gate, up, down, slots, members, x, q, scale, sums, width, hidden, out
):
    gate_w, up_w, down_w = read_only(gate), read_only(up), read_only(down)
    _zero_beyond(hidden, slots.size, n_tiles[0] * ROWS, width)
    first, second = new_counter(), new_counter()
    for _ in prange(n_threads):
        _hidden(
            first, n_threads, ids, offsets, tile_bytes, n_tiles[0], gate_w, up_w, slots, x, q, scale, sums,
            width, hidden,
        )  # fmt: skip
    for _ in prange(n_threads):
        _answers(
            second, n_threads, ids[2], offsets[2], tile_bytes[2], n_tiles[2], down_w, slots, members, width, hidden, out
        )  # fmt: skip


@inner
def _zero_beyond(hidden, networks, rows, width):
    """Zeros from the last row to a block's end; apart from what is parallel, or Numba would wake the threads."""
    gated, raised, _, _, _ = _laid_out(hidden, networks, width)
    gated[:, rows:] = raised[:, rows:] = np.float32(0)


@inner
def _laid_out(hidden, networks, width):
    """(numbers gated and raised, [G, width] f32, and the former quantized: q, scale, sums), one after another."""
    size, groups = networks * width, networks * width // GROUP
    at = 2 * size
    q, at = hidden[at : at + size // 4].view(np.int8), at + size // 4
    scale, at = hidden[at : at + groups], at + groups
    sums = hidden[at : at + 2 * groups].view(np.int16)
    return (
        hidden[:size].reshape((networks, width)),
        hidden[size : 2 * size].reshape((networks, width)),
        q.reshape((networks, width)),
        scale.reshape((networks, width // GROUP)),
        sums.reshape((networks, width // 16, 2)),
    )


@inner
def _hidden(
    counter, n_threads, ids, offsets, tile_bytes, n_tiles, gate, up, slots, x, q, scale, sums, width, hidden
):  # fmt: skip
    """One thread's groups of 32 hidden numbers, a stretch of one network at a time."""
    gated, raised, hidden_q, hidden_scale, hidden_sums = _laid_out(hidden, slots.size, width)
    groups, blocks = width // GROUP, x.shape[1] // BLOCK
    items = slots.size * groups
    while True:
        item, end = take_stretch(counter, items, _TILES * (tile_bytes[0] + tile_bytes[1]), n_threads)
        if item >= items:
            break
        while item < end:
            g, first = item // groups, item % groups
            last = min(first + end - item, groups)
            item += last - first
            tile = _TILES * first
            count, o = min(_TILES * last, n_tiles) - tile, g * gated.shape[1] + ROWS * tile
            at = np.int64(slots[g]) * gate.shape[1] + offsets[0] + tile * tile_bytes[0]
            single_products(ids[0], gate, at, tile_bytes[0], count, blocks, x, q, scale, sums, 0, gated, o)
            at = np.int64(slots[g]) * up.shape[1] + offsets[1] + tile * tile_bytes[1]
            single_products(ids[1], up, at, tile_bytes[1], count, blocks, x, q, scale, sums, 0, raised, o)
            some = slice(GROUP * first, GROUP * last)
            swiglu_row(gated[g, some], raised[g, some])
            if ids[2] >= LOWEST_INT8:
                for group in range(first, last):
                    quantize_group(gated[g], group, hidden_q[g], hidden_scale[g], hidden_sums[g])


@inner
def _answers(
    counter, n_threads, format_id, offset, tile_bytes, n_tiles, down, slots, members, width, hidden, out
):  # fmt: skip
    """One thread's tiles of down."""
    x, _, q, scale, sums = _laid_out(hidden, slots.size, width)
    blocks, items = width // BLOCK, slots.size * n_tiles
    while True:
        item, last = take_stretch(counter, items, tile_bytes, n_threads)
        if item >= items:
            break
        while item < last:
            g, tile = item // n_tiles, item % n_tiles
            count = min(n_tiles - tile, last - item)
            item += count
            at = np.int64(slots[g]) * down.shape[1] + offset + tile * tile_bytes
            o = members[g] * out.shape[1] + ROWS * tile
            single_products(format_id, down, at, tile_bytes, count, blocks, x, q, scale, sums, g, out, o)
