"""This machine's limits, measured in seconds: what speed is judged by.

Medians of a few rounds. A rate measured while other programs use the cores is theirs as much as the machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from cpu_runtime.kernels.roof import ROWS, SLICES, TOKENS, int8_products, sum_words
from quant.formats import Format, Matrix

BEYOND_CACHES = 512 << 20  # bytes that no cache keeps; the last ones of servers have 480 MB
_DEPTH = 1024  # inputs of the int8 products: 16 KB of weights and 4 KB of inputs stay in the first cache


def roofs() -> tuple[float, float]:
    """(bytes a second read from memory, int8 products a second) on the threads that are set."""
    return read_rate(np.full(BEYOND_CACHES // 8, 1, np.int64)), dot_rate()


def read_rate(words: np.ndarray) -> float:
    """Bytes a second of a sum over words [W] i64, W a multiple of WORDS: what reading memory takes at least."""
    sums = np.empty(SLICES, np.float32)
    return words.nbytes / seconds(lambda: sum_words(words, sums))


def dot_rate() -> float:
    """Int8 products a second, each core on matrices of its own in its first cache."""
    w, x = np.ones((_DEPTH // 4, ROWS, 4), np.int8), np.ones((TOKENS, _DEPTH), np.int8)
    out = np.empty((64, TOKENS, ROWS), np.float32)
    rounds = 32
    return rounds * out.size * _DEPTH / seconds(lambda: int8_products(w, x, rounds, out))


def filled(form: Format, rows: int, cols: int) -> Matrix:
    """A matrix in which every byte is 17: time does not depend on weights, as long as scales are ordinary numbers."""
    tiles = np.full((form.matrix_bytes(rows, cols) // form.tile_bytes(cols), form.tile_bytes(cols)), 17, np.uint8)
    return Matrix(form, rows, cols, tiles)


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """The median time of some rounds, after one that is not counted: it compiles."""
    work()
    took = []
    for _ in range(rounds):
        start = perf_counter()
        work()
        took.append(perf_counter() - start)
    return median(took)
