"""Bytes that are read next, asked for little by little while others are at work.

All at once they would come in no faster than memory does, and what is computed beside would wait for its own misses.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cpu_runtime.kernels.vectors import prefetch
from quant.formats import LINE
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
    for line in range(at, at + upcoming.share, LINE):
        prefetch(upcoming.w, line)
