"""Work shared out among threads as they get to it.

Equal parts decided beforehand wait for the slowest: experts have different numbers of tokens, and a core may be lent
to another program. Here each thread takes the next few items from a counter until there are none.

    counter = new_counter()
    for _ in prange(n_threads):
        work(counter, n, ...)                 a kernel: while (first := take(counter, few)) < n: ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.vectors import operation
from quant.jit import inner

_SHORTEST, _LONGEST = 1 << 16, 1 << 19  # bytes of a stretch: each begins with waiting for memory
_STRETCHES = 16  # a thread, if they are not too short for it: the last to come home is a sixteenth late at most
_LINE = 8  # int64 of a cache line, which nothing else shall share


@inner
def run_of(tile_bytes, tiles, n_threads):
    """How many of so many tiles to take at once: what is read in one go, in enough parts to be shared out."""
    stretch = tiles * tile_bytes // (_STRETCHES * n_threads)
    return max(1, min(max(stretch, _SHORTEST), _LONGEST) // tile_bytes)


@inner
def new_counter():
    """A counter at 0."""
    return np.zeros(_LINE, np.int64)


def _taken(counter: np.ndarray, count: int) -> int:
    first = int(counter[0])
    counter[0] += count
    return first


@operation(_taken)
def take(typing_context: Any, counter: Any, count: Any) -> Any:
    """The first of the next `count` items, which are this thread's."""

    def generate(context: Any, b: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        data = context.make_array(signature.args[0])(context, b, values[0]).data
        return b.atomic_rmw("add", data, values[1], "monotonic")

    return types.int64(counter, types.int64), generate
