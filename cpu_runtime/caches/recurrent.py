"""The state of a Gated DeltaNet layer: a fixed size whatever the context, and not rewindable without a copy."""

from __future__ import annotations

import numpy as np


class RecurrentState:
    """Shapes: conv [taps - 1, channels] f32, the last raw inputs · memory [Hv, dk, dv] f32."""

    cuttable = False

    def __init__(self, taps: int, channels: int, heads: int, key_size: int, value_size: int) -> None:
        self.conv = np.zeros((taps - 1, channels), np.float32)
        self.memory = np.zeros((heads, key_size, value_size), np.float32)

    def mark(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """A copy of the state, which must be that after `length` tokens."""
        return self.conv.copy(), self.memory.copy()

    def rewind(self, mark: tuple[np.ndarray, np.ndarray]) -> None:
        """Go back to a copy."""
        self.conv[:], self.memory[:] = mark

    def clear(self) -> None:
        """The state before the first token."""
        self.conv[:] = 0
        self.memory[:] = 0

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self.conv.nbytes + self.memory.nbytes

    @property
    def most_bytes(self) -> int:
        """Memory with the copies for going back: the one that is kept, and the next while it is made."""
        return 3 * self.bytes
