"""Copies of a model's experts, each on a drive of its own, that are read at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from cpu_runtime.experts.drive import Copy
from quant.container import QuantizedModel, open_model
from quant.errors import UsageError

_KEPT = 0.95  # of what is known of a drive, with each record that comes from it
_KNOWN = 32 << 20  # bytes that its first reads, when it was opened, count for


class Copies:
    """Says which copy a read goes to: the one that would have it soonest, by its rate and the bytes under way there.

    Rates are those of the reads before: drives warm up, and other programs read from them. `clock` is there for tests.
    """

    def __init__(self, copies: Sequence[Copy], clock: Callable[[], float] = perf_counter) -> None:
        self.files = [copy.files for copy in copies]
        self._bytes = [float(_KNOWN)] * len(copies)
        self._seconds = [_KNOWN / copy.rate for copy in copies]
        self._under_way = [0] * len(copies)
        self._since = [0.0] * len(copies)  # began, or had a record come, the reading under way
        self._clock = clock

    def begin(self, size: int) -> int:
        """The copy to read `size` bytes from, which are under way from now on."""
        ends = [
            (under_way + size) * seconds / known
            for under_way, seconds, known in zip(self._under_way, self._seconds, self._bytes, strict=True)
        ]
        copy = ends.index(min(ends))
        if not self._under_way[copy]:
            self._since[copy] = self._clock()
        self._under_way[copy] += size
        return copy

    def end(self, copy: int, size: int) -> None:
        """These are there."""
        now = self._clock()
        self._bytes[copy] = _KEPT * self._bytes[copy] + size
        self._seconds[copy] = _KEPT * self._seconds[copy] + now - self._since[copy]
        self._since[copy] = now
        self._under_way[copy] -= size

    def end_all(self) -> None:
        """Nothing is under way."""
        self._under_way = [0] * len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def close(self) -> None:
        """Close the files."""
        for files in self.files:
            for file in files.values():
                file.close()
            files.clear()


def open_mirror(folder: Path, model: QuantizedModel) -> QuantizedModel:
    """A copy of the model in another folder; raises UsageError for another model, else as `open_model` does."""
    mirror = open_model(folder)
    if mirror.manifest != model.manifest:
        mirror.close()
        raise UsageError(
            f"--mirror {folder} holds another model than {model.path}",
            hint=f"copy {model.path} to a new folder on the other drive, and name that",
        )
    return mirror
