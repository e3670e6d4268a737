"""The residual stream: what every block of a stack reads and adds to."""

from __future__ import annotations

import numpy as np

from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.workspace import NEW, Workspace


class Residual:
    """T rows that blocks add to; an addition waits for the norm after it, which sees every number anyway.

    Shapes: x [T, D] f32, changed in place, and complete after `settle`
    """

    __slots__ = ("_added", "_mark", "_normed", "_workspace", "x")

    def __init__(self, x: np.ndarray, workspace: Workspace = NEW) -> None:
        self.x = x
        self._added: np.ndarray | None = None
        self._normed = Activations.room(x.shape, workspace)
        self._workspace, self._mark = workspace, workspace.mark()

    def normed(self, norm: RMSNorm) -> Activations:
        """norm(x), in the same memory every time: the next call overwrites it, and all that was made of it."""
        self._normed.norm(norm, self.x, self._added)
        self._added = None
        self._workspace.rewind(self._mark)
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
