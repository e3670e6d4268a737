"""The residual stream: what every block of a stack reads and adds to."""

from __future__ import annotations

import numpy as np

from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.norm import RMSNorm


class Residual:
    """T rows that blocks add to; an addition waits for the norm after it, which sees every number anyway.

    Shapes: x [T, D] f32, changed in place, and complete after `settle`
    """

    __slots__ = ("_added", "_normed", "x")

    def __init__(self, x: np.ndarray) -> None:
        self.x = x
        self._added: np.ndarray | None = None
        self._normed = Activations.room(*x.shape)

    def normed(self, norm: RMSNorm) -> Activations:
        """norm(x), in the same memory every time: the next call overwrites it."""
        self._normed.norm(norm, self.x, self._added)
        self._added = None
        return self._normed

    def add(self, y: np.ndarray) -> None:
        """x += y, once that is asked for: y [T, D] f32."""
        self.settle()
        self._added = y

    def settle(self) -> np.ndarray:
        """x, with all that was added."""
        if self._added is not None:
            self.x += self._added
            self._added = None
        return self.x
