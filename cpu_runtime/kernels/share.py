"""Work shared out among threads as they get to it.

Equal parts decided beforehand wait for the slowest: experts have different numbers of tokens, and a core may be lent
to another program. Here each thread takes stretches of items until there are none: long ones at first, because each
begins with waiting for memory, short ones at the end, so that nobody is late.

    counter = new_counter()
    for _ in prange(n_threads):
        work(counter, ...)                    a kernel: take stretches while they are not empty
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types

from cpu_runtime.kernels.stack import zeros_on_stack
from cpu_runtime.kernels.vectors import operation
from quant.jit import inner

_SHORTEST = 1 << 16  # bytes of a stretch
_LINE = 8  # int64 of a cache line, which nothing else shall share


new_counter = zeros_on_stack(_LINE, np.int64)  # new_counter() -> a counter at 0


@inner
def take_stretch(counter, n, item_bytes, n_threads):
    """(first, last) of the next of n items of so many bytes, which are this thread's; first is n or more at the end."""
    least = max(1, _SHORTEST // item_bytes)
    few = max(least, (n - counter[0]) // (2 * n_threads))
    first = take(counter, few)
    return first, min(first + few, n)


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
