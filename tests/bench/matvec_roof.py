"""How near a matvec comes to the rate at which this machine reads memory: both timed in turns, on the same bytes.

    python -m tests.bench.matvec_roof [--format q4] [--threads 2] [--rounds 15]

The roof is a sum over the same memory as 64-bit integers, on the same threads. Medians, because both move with
whatever else the machine does.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np

from cpu_runtime.kernels.cpu import LOWERING
from cpu_runtime.kernels.matmul import matmul
from cpu_runtime.kernels.roof import SLICES, WORDS, sum_words
from cpu_runtime.layers.linear import Activations
from quant.formats import FORMATS
from quant.jit import set_threads
from tests.packing import packed

COLS = 4096  # inputs of the matrix: the hidden size of Qwen3.5-397B
BYTES = 1 << 30  # of weights, many times any cache


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=sorted(FORMATS), default="q4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    set_threads(given.threads)

    form = FORMATS[given.format]
    random = np.random.default_rng(0)
    some = packed(form.name, random.standard_normal((256, COLS), np.float32))
    tiles = np.tile(some, (BYTES // some.nbytes, 1))
    words, sums = tiles.reshape(-1).view(np.int64), np.empty(SLICES, np.float32)
    words = words[: words.size // WORDS * WORDS]
    x = Activations(random.standard_normal((1, COLS), np.float32))
    out = np.empty((1, 16 * len(tiles)), np.float32)

    product_s, read_s = [], []
    for _ in range(given.rounds + 1):  # the first compiles
        start = perf_counter()
        matmul(form.id, tiles, *x.for_format(form.id), out)
        middle = perf_counter()
        sum_words(words, sums)
        product_s.append(middle - start)
        read_s.append(perf_counter() - middle)
    product, roof = (tiles.nbytes / float(np.median(seconds[1:])) / 1e9 for seconds in (product_s, read_s))
    print(f"{form.name} matvec, {given.threads} threads, {LOWERING}, {tiles.nbytes >> 20} MiB of weights")
    print(f"matvec {product:6.2f} GB/s\nread   {roof:6.2f} GB/s\nratio  {product / roof:6.2f}")


if __name__ == "__main__":
    main()
