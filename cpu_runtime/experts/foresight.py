"""How far guesses at a layer's experts can be trusted, learnt from how they turn out."""

from __future__ import annotations

import numpy as np

WORTH_READING = 0.7  # of guesses that turn out right: a wrong one costs a read and the place of a record
_FIRST = 0.75  # how far a guess is trusted before any has been seen
_LEARNS = 0.1


class Foresight:
    """For each layer and each rank of a guess, the surest first, how often it has been right of late."""

    def __init__(self) -> None:
        self._right: dict[tuple[int, bool], np.ndarray] = {}
        self._last: tuple[int, bool, np.ndarray] | None = None

    def likely(self, layer: int, experts: np.ndarray, tokens: int) -> np.ndarray:
        """Those of the guesses that are worth reading: experts [A] i32, the surest first, -> [at most A] i32."""
        key = layer, tokens > 1
        right = self._right.get(key)
        if right is None or right.size < experts.size:
            longer = np.full(experts.size, _FIRST)
            if right is not None:
                longer[: right.size] = right
            right = self._right[key] = longer
        self._last = *key, experts.copy()  # the caller's own may be written over before
        return experts[right[: experts.size] >= WORTH_READING]

    def asked(self, layer: int, experts: np.ndarray) -> None:
        """Learn from what the layer was asked for."""
        if self._last is None or self._last[0] != layer:
            return
        guesses, right = self._last[2], self._right[self._last[:2]][: self._last[2].size]
        known = set(experts.tolist())  # for a few numbers a tenth of the time of `np.isin`
        right += _LEARNS * (np.array([guess in known for guess in guesses.tolist()]) - right)
        self._last = None
