"""Work for all threads that is none, so that they do not fall asleep while one of them waits for a drive.

A thread sleeps some 50 us after a kernel's end, and a core that rests takes up to 0.2 ms to wake, again and again in a
layer: each kernel after a wait took twice its time.
"""

from __future__ import annotations

import numpy as np

from quant.jit import parallel_kernel, prange, threads

_LINE = 64


def rouse() -> None:
    """Have every thread look for work for a while longer."""
    _rouse(np.zeros((threads(), _LINE), np.uint8))


@parallel_kernel
def _rouse(lines):
    for n in prange(len(lines)):
        lines[n, 0] = 1
