"""Which of a layer's experts are in memory, and what keeping each is worth."""

from __future__ import annotations

import numpy as np

# Least frequently used, but what the latest tokens used is kept for a while. Simulated on the demo model's routing and
# on drawn streams (LOG.md): 2 to 9 points more hits than the least recently used where experts differ in popularity,
# and as many where only the latest are used again.
_OFTEN = 0.5 ** (1 / 16)  # a use counts half after 16 tokens
_LATELY = 0.25
_LATELY_WEIGHS = 8.0


class Residence:
    """Slots of one layer's experts; of those not in use, the one worth least goes first."""

    def __init__(self, experts: int) -> None:
        self.slot_of = np.full(experts, -1, np.int32)
        self.held = 0
        self._in_use = np.zeros(experts, bool)
        self._often = np.zeros(experts)
        self._lately = np.zeros(experts)

    def used(self, experts: np.ndarray, uses: np.ndarray | None, tokens: int) -> None:
        """Count what a chunk of tokens asked for, as if each expert's uses were spread evenly over it."""
        share = 1.0 if uses is None else uses / tokens
        for worth, decay in ((self._often, _OFTEN), (self._lately, _LATELY)):
            left = decay**tokens
            worth *= left
            worth[experts] += share * ((1 - left) / (1 - decay))

    def hold(self, expert: int, slot: int) -> None:
        """Take note of a record that has become whole."""
        self.slot_of[expert] = slot
        self.held += 1

    def use(self, experts: np.ndarray) -> None:
        """Keep these, and none but these, from leaving."""
        self._in_use[:] = False
        self._in_use[experts] = True

    def recount(self) -> None:
        """After an interruption between two lines of this class."""
        self.held = int(np.count_nonzero(self.slot_of >= 0))

    def leave(self) -> int | None:
        """Let the record go that is worth least and return its slot; None where all are in use."""
        worth = self._often + _LATELY_WEIGHS * self._lately
        worth[(self.slot_of < 0) | self._in_use] = np.inf
        expert = int(worth.argmin())
        if worth[expert] == np.inf:
            return None
        slot = int(self.slot_of[expert])
        self.slot_of[expert] = -1
        self.held -= 1
        return slot
