"""How near the source decoders come to the rate at which memory takes float32: in turns with a copy of as many bytes.

    python -m tests.bench.decode_rate [--threads 2] [--rounds 30]

The copy is NumPy's, of float32 rows of an R1 expert's shape times eight, far more than the caches hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np

from quant import decode
from quant.jit import set_threads

ROWS, COLS = 8 * 2048, 7168


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    set_threads(given.threads)

    random = np.random.default_rng(0)
    out, rows = np.ones((ROWS, COLS), np.float32), np.ones((ROWS, COLS), np.float32)
    words = out.view(np.uint32).reshape(-1)
    halves = random.integers(0, 0x7C00, out.size, np.uint16)
    codes, grid = random.integers(0, 0x7F, out.shape, np.uint8), np.ones((ROWS // 128, COLS // 128), np.float32)
    nibbles, scales = (
        random.integers(0, 256, (ROWS, COLS // 2), np.uint8),
        np.full((ROWS, COLS // 32), 0x3F80, np.uint16),
    )
    cases: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(out, rows),
        "bf16": lambda: decode.bf16(halves, words),
        "f16": lambda: decode.f16(halves, words),
        "fp8": lambda: decode.fp8(codes, grid, 0, 128, 128, out),
        "int4": lambda: decode.int4(nibbles, scales, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(given.rounds + 1):  # the first compiles
        for name, run in cases.items():
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    copy = float(np.median(seconds["copy"][1:]))
    for name, taken in seconds.items():
        median = float(np.median(taken[1:]))
        print(f"{name:5} {out.nbytes / median / 1e9:6.2f} GB/s written, {copy / median:5.2f} of the copy")


if __name__ == "__main__":
    main()
