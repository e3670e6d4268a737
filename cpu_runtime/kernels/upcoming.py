"""Bytes that are read next, asked for little by little while others are at work.

All at once they would come in no faster than memory does, and what is computed beside would wait for its own misses. In
the loop for a single token that costs up to a quarter, and LLVM would do it: after everything else that a round reads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cpu_runtime.kernels.vectors import prefetch_all, settled
from quant.jit import inner


class Upcoming(NamedTuple):
    """`share` bytes of w from `at` on, as many after these, and so on; they may lie beyond its end."""

    w: np.ndarray
    at: int
    share: int


@inner
def ask(upcoming, step):
    """Let the cache fetch a share."""
    at = upcoming.at + step * upcoming.share
    prefetch_all(upcoming.w, at, at + upcoming.share)


@inner
def ask_before(w, at, first, last):
    """`at`: before what is read there, the cache is asked for bytes `first` .. `last` - 1 from there on."""
    prefetch_all(w, at + first, at + last)
    return settled(at)


@inner
def ask_before_half(half, w, at, further, first_bytes, block_bytes):
    """The same of one part, before a block's first half, and of the other before its second, of a block further on."""
    first, last = (0, first_bytes) if half == 0 else (first_bytes, block_bytes)
    return ask_before(w, at, further + first, further + last)
