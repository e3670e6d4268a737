"""Matrices of routed experts times the tokens that were routed to them, and the sum of what they answer."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.exponential import sigmoid, silu
from cpu_runtime.kernels.share import new_counter, take_stretch
from cpu_runtime.kernels.tile import new_room, tile_products
from cpu_runtime.kernels.tile_single import READS_INT8
from cpu_runtime.kernels.vectors import read_only
from quant.formats import BLOCK, FORMATS, ROWS, tiles
from quant.jit import inner, kernel, parallel_kernel, prange, threads

FORMATS_BY_ID = {form.id: form for form in FORMATS.values()}


def grouped_matmul(
    format_id: int,
    records: np.ndarray,
    offset: int,
    rows: int,
    slots: np.ndarray,
    starts: np.ndarray,
    x: np.ndarray,
    q: np.ndarray,
    packs: np.ndarray,
    scale: np.ndarray,
    sums: np.ndarray,
    tokens: np.ndarray,
    out: np.ndarray,
) -> None:
    """out[p] = W_g · activations of token tokens[p], for p in starts[g] .. starts[g + 1] - 1; W_g in record slots[g].

    Shapes: records [n, record_bytes] u8, the matrix of `rows` rows `offset` bytes into each · slots [G] i32
            starts [G + 1] i32 · tokens [P] i32 · out [P, at least whole tiles of rows] f32 · activations as in tile.py
    """
    blocks = (q if format_id in READS_INT8 else x).shape[1] // BLOCK
    size = FORMATS_BY_ID[format_id].tile_bytes(BLOCK * blocks)
    _grouped_matmul(
        threads(), format_id, records, offset, tiles(rows), size, blocks, slots, starts,
        x, q, packs, scale, sums, tokens, out,
    )  # fmt: skip


@parallel_kernel
def _grouped_matmul(
    n_threads, format_id, records, offset, n_tiles, tile_bytes, blocks, slots, starts,
    x, q, packs, scale, sums, tokens, out,
):  # fmt: skip
    w = read_only(records)
    counter = new_counter()
    for _ in prange(n_threads):
        _share(
            counter, n_threads, format_id, w, offset, n_tiles, tile_bytes, blocks, slots, starts,
            x, q, packs, scale, sums, tokens, out,
        )  # fmt: skip


@inner
def _share(
    counter, n_threads, format_id, w, offset, n_tiles, tile_bytes, blocks, slots, starts,
    x, q, packs, scale, sums, tokens, out,
):  # fmt: skip
    """One thread's tiles, of one expert after another."""
    items, room = slots.size * n_tiles, new_room()
    while True:
        item, last = take_stretch(counter, items, tile_bytes, n_threads)
        if item >= items:
            break
        while item < last:
            g, n = item // n_tiles, item % n_tiles
            count = min(n_tiles - n, last - item)
            tile_products(
                format_id, w, np.int64(slots[g]) * w.shape[1] + offset + n * tile_bytes, tile_bytes, count, blocks,
                x, q, packs, scale, sums, tokens, starts[g], starts[g + 1], out, ROWS * n, room,
            )  # fmt: skip
            item += count


@parallel_kernel
def swiglu(gate, up):
    """gate = silu(gate) * up, in place: a third array might be either, and the loop would not become vector code.

    Shapes: gate, up [T, I] f32
    """
    for t in prange(gate.shape[0]):
        swiglu_row(gate[t], up[t])


@inner
def swiglu_row(gate, up):
    """The same for one row."""
    for i in range(gate.size):
        gate[i] = silu(gate[i]) * up[i]


@kernel
def open_by(gate, answers):
    """answers[t] *= sigmoid(gate[t]).

    Shapes: gate [T, 1] f32 · answers [T, D] f32
    """
    for t in range(answers.shape[0]):
        openness = sigmoid(gate[t, 0])
        for i in range(answers.shape[1]):
            answers[t, i] *= openness


@parallel_kernel
def weighted_sum(answers, places, weights, out):
    """out[t] = sum over j of weights[t, j] * answers[places[t, j]], in this order.

    Shapes: answers [P, at least D] f32 · places, weights [T, A], i32 and f32 · out [T, D] f32
    """
    tokens, active = places.shape
    for t in prange(tokens):
        out[t] = np.float32(0)
        for j in range(active):
            _add_scaled(answers[places[t, j]], weights[t, j], out[t])


@inner
def _add_scaled(x, factor, out):
    for i in range(out.size):
        out[i] += factor * x[i]
