"""Fewer threads for a token while other programs want the cores too."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter

_TASKS, _OWN = Path("/proc/self/task"), Path("/proc/self/schedstat")
_WINDOW = 0.25  # seconds between two looks
_CROWDED = 0.25  # threads that wait for a core, on average: 0.003 alone, 0.5 to 1 beside a busy program
_SHORTEST, _LONGEST = 1.0, 16.0  # seconds without waiting before one thread more is tried


class Crowd:
    """How many threads compute: `most` of them, or for one token alone as many as find a core at once.

    A token's threads meet a hundred times, and one that waits for a core is waited for by all: two beside one busy
    program are slower than one. Products for a whole prompt are long, and gain by every thread. Results are the same
    bits whatever the number. `waited` gives the seconds that threads of this process have waited for a core so far.
    """

    def __init__(self, most: int, waited: Callable[[], float], clock: Callable[[], float] = perf_counter) -> None:
        self.most = most
        self._waited, self._clock = waited, clock
        self._count = most
        self._trying = False  # one thread more than before
        self._patience, self._try_at = _SHORTEST, 0.0
        self._since: float | None = None  # when the present run of single tokens was last looked at
        self._before = 0.0

    def threads(self, tokens: int) -> int:
        """Threads for so many tokens at once; to be asked before each time."""
        if tokens > 1:
            self._since = None
            return self.most
        now = self._clock()
        if self._since is None:
            self._since, self._before = now, self._waited()
        elif now - self._since >= _WINDOW:
            waited = self._waited()
            self._judge((waited - self._before) / (now - self._since), now)
            self._since, self._before = now, waited
        return self._count

    def _judge(self, waiting: float, now: float) -> None:
        if waiting > _CROWDED:
            if self._trying:
                self._patience = min(2 * self._patience, _LONGEST)
            self._count = max(1, self._count - max(1, round(waiting)))
            self._trying, self._try_at = False, now + self._patience
        elif self._count < self.most:
            if now >= self._try_at:
                self._count += 1
                self._trying = True
        else:
            self._trying, self._patience = False, _SHORTEST


class RunDelay:
    """Seconds that this thread and those without Python have waited for a core, from 0 on.

    Python's other threads wait for files, and whether they get a core at once matters little.
    """

    def __init__(self) -> None:
        self._seen = _delays()
        self._total = 0

    def __call__(self) -> float:
        """Up to now."""
        seen = _delays()
        self._total += sum(max(0, now - self._seen.get(task, 0)) for task, now in seen.items())
        self._seen = seen
        return self._total / 1e9


def _delays() -> dict[int, int]:
    """Nanoseconds that each thread was ready to run and did not; without those that end in the meantime."""
    others = {thread.native_id for thread in threading.enumerate()} - {threading.get_native_id()}
    found = {}
    for task in map(int, os.listdir(_TASKS)):
        if task not in others:
            with suppress(FileNotFoundError, ProcessLookupError):
                found[task] = int((_TASKS / str(task) / "schedstat").read_text().split()[1])
    return found


def crowd(most: int) -> Crowd | None:
    """For so many threads at most; None where one is all there is, or the system does not say how long threads wait."""
    return Crowd(most, RunDelay()) if most > 1 and _OWN.exists() else None
