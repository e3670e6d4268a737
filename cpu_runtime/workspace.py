"""Where the arrays of layers come from: a prompt's are made anew, those of generated tokens once."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from quant.formats import LINE


class Workspace:
    """New memory for every array: a prompt's are large, and as long as the prompt."""

    __slots__ = ()

    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An array of any content."""
        return _aligned(shape, dtype)

    def spare(self, count: int) -> np.ndarray:
        """At least `count` f32 of any content, for one kernel: the next one may be given the same."""
        return _aligned((count,), np.float32)

    def mark(self) -> int:
        """A place to `rewind` to."""
        return 0

    def rewind(self, mark: int) -> None:
        """What was handed out since the mark is not needed any more."""


NEW = Workspace()


class TokenWorkspace(Workspace):
    """The same memory for one token after another: layers ask for arrays in the same order each time.

    After `rewind` the arrays handed out since the mark are handed out again, where order, shape and type are the same:
    most layers share theirs, which stay in a cache.
    """

    __slots__ = ("_made", "_next", "_spare")

    def __init__(self) -> None:
        self._made: dict[Any, np.ndarray] = {}
        self._next = 0
        self._spare = np.empty(0, np.float32)

    def empty(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An array of any content, the same as at this place of an earlier token."""
        key = self._next, shape, dtype
        self._next += 1
        array = self._made.get(key)
        if array is None:
            array = self._made[key] = _aligned(shape, dtype)
        return array

    def spare(self, count: int) -> np.ndarray:
        """The same memory each time, and a larger one where that is too small."""
        if self._spare.size < count:
            self._spare = _aligned((count,), np.float32)
        return self._spare

    def mark(self) -> int:
        """How many arrays are handed out."""
        return self._next

    def rewind(self, mark: int) -> None:
        """Begin again with the array that was asked for after the mark."""
        self._next = mark


def _aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that begins at a cache line.

    16 rows are what a tile adds to: where they lay in two lines, two threads would fight over each.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size].view(dtype).reshape(shape)
