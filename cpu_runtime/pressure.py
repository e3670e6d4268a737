"""Giving memory back where the system runs short of it while a model runs."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from cpu_runtime import heap
from cpu_runtime.memory import MIB, available_bytes

_INTERVAL = 1.0  # seconds between two looks, each of which takes a tenth of a millisecond
_LEAST, _SHARE = 256 * MIB, 32  # short is less than this, and less than one part in so many of the budget


class Gives(Protocol):
    """Holds memory that it can do with less of."""

    def give_back(self, size: int) -> int: ...


class Pressure:
    """Makes a store give records back before the system swaps, or ends the process.

    Nothing is taken again: what was short once may be short again. `available` and `clock` are there for tests.
    """

    def __init__(
        self,
        store: Gives,
        total: int,
        available: Callable[[], int] = available_bytes,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._store = store
        self._low = min(_LEAST, total // _SHARE)
        self._available = available
        self._clock = clock
        self._next = clock()

    def relieve(self) -> None:
        """To be called between tokens: looks once a second, and gives back what twice the least wants.

        First what is held for arrays to come, and records only if that is not enough: those have to be read again.
        """
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        if self._available() < self._low:
            heap.give_back()
            if (free := self._available()) < self._low:
                self._store.give_back(2 * self._low - free)
