"""This machine's limits and our kernels' rates, measured in seconds: what speed is judged by and predicted from.

Medians of a few rounds. A rate measured while other programs use the cores is theirs as much as the machine's.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from cpu_runtime.kernels.matmul import matmul
from cpu_runtime.kernels.roof import ROWS, TOKENS, int8_products, sum_words
from cpu_runtime.layers.linear import Activations, Linear
from quant.errors import ResourceError
from quant.formats import FORMATS, Format, Matrix

COLS = 4096  # inputs of the matrices: a hidden size of large models
TOGETHER = 32  # tokens multiplied at once, where a block of weights serves many
_READ_BYTES = 512 << 20  # many times any cache
_ONE_BYTES, _MANY_BYTES = 128 << 20, 8 << 20
_DISK_BYTES, _PIECE, _READERS = 192 << 20, 4 << 20, 4
_DEPTH = 1024  # inputs of the int8 products: 16 KB of weights and 4 KB of inputs stay in the first cache


@dataclass(frozen=True)
class Rate:
    """A format's rates: bytes a second for one token, and products a second for 32 of them."""

    one: float
    many: float


@dataclass(frozen=True)
class Rates:
    """`read` bytes a second from memory, `dot` int8 products a second in the cache: the roofs of these threads.

    `formats` are our own kernels', `launch` is the seconds that a small matrix takes whatever its size.
    """

    threads: int
    read: float
    dot: float
    formats: dict[str, Rate]
    launch: float


def roofs() -> tuple[float, float]:
    """(bytes a second read from memory, int8 products a second) on the threads that are set."""
    return read_rate(np.full(_READ_BYTES // 8, 1, np.int64)), dot_rate()


def rates(threads: int) -> Rates:
    """Everything but the disk, on `threads` threads, which the caller has set."""
    read, dot = roofs()
    formats = {name: Rate(*format_rates(form)) for name, form in FORMATS.items()}
    small = Linear(filled(FORMATS["q8"], 64, 64))
    x = np.ones((1, 64), np.float32)
    launch = seconds(lambda: small(Activations(x)), 201)
    return Rates(threads, read, dot, formats, launch)


def read_rate(words: np.ndarray) -> float:
    """Bytes a second of a sum over words [W] i64, W a multiple of 64: what reading memory takes at least."""
    sums = np.empty(64, np.int64)
    return words.nbytes / seconds(lambda: sum_words(words, sums))


def dot_rate() -> float:
    """Int8 products a second, each core on matrices of its own in its first cache."""
    w, x = np.ones((_DEPTH // 4, ROWS, 4), np.int8), np.ones((TOKENS, _DEPTH), np.int8)
    out = np.empty((64, TOKENS, ROWS), np.float32)
    rounds = 32
    return rounds * out.size * _DEPTH / seconds(lambda: int8_products(w, x, rounds, out))


def format_rates(form: Format) -> tuple[float, float]:
    """(bytes a second for one token, products a second for 32 tokens) of our kernel for a format."""

    def took(size: int, tokens: int) -> tuple[Matrix, float]:
        matrix = filled(form, size // form.matrix_bytes(16, COLS) * 16, COLS)
        x = Activations(np.full((tokens, COLS), 0.5, np.float32)).for_format(form.id)
        out = np.empty((tokens, matrix.rows), np.float32)
        return matrix, seconds(lambda: matmul(form.id, matrix.tiles, *x, out))

    (one, one_s), (many, many_s) = took(_ONE_BYTES, 1), took(_MANY_BYTES, TOGETHER)
    return one.tiles.nbytes / one_s, TOGETHER * many.rows * COLS / many_s


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


def disk_rate(folder: Path) -> float:
    """Bytes a second of reads of 4 MiB, four at a time, past the page cache where the system allows it.

    Writes a file of 192 MiB to `folder` and deletes it. Raises ResourceError where that fails.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".speed-") as file:
            piece = secrets.token_bytes(_PIECE)
            for _ in range(_DISK_BYTES // _PIECE):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            return _DISK_BYTES / _read_all(file.name)
    except OSError as error:
        raise ResourceError(
            f"can't measure the disk at {folder}: {error.strerror}", hint="free 200 MB there, or set MOE_HOME"
        ) from error


def _read_all(path: str) -> float:
    """Seconds that reading the whole file takes."""
    descriptor = _open_past_the_cache(path)

    def share(first: int) -> int:
        buffer = mmap.mmap(-1, _PIECE)  # begins at a page, as reads past the cache ask for
        return sum(os.preadv(descriptor, [buffer], at) for at in range(first, _DISK_BYTES, _READERS * _PIECE))

    try:
        with ThreadPoolExecutor(_READERS) as pool:
            start = perf_counter()
            done = sum(pool.map(share, range(0, _READERS * _PIECE, _PIECE)))
            took = perf_counter() - start
    finally:
        os.close(descriptor)
    assert done == _DISK_BYTES
    return took


def _open_past_the_cache(path: str) -> int:
    if hasattr(os, "O_DIRECT"):
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno != EINVAL:  # a file system without direct reads
                raise
    descriptor = os.open(path, os.O_RDONLY)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    elif hasattr(fcntl, "F_NOCACHE"):
        fcntl.fcntl(descriptor, fcntl.F_NOCACHE, 1)
    return descriptor
