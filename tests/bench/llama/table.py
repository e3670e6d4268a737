"""Rows of the comparison: what each engine measured, what is judged, and the least or most that it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

HEAD = "| row | target | ours | llama.cpp | ratio or share | met? |\n|---|---|---|---|---|---|"


@dataclass
class Sample:
    """Measurements of one thing in all rounds."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of all rounds."""
        return median(self.values)

    def __str__(self) -> str:
        low, high, middle = min(self.values), max(self.values), self.median
        spread = f" ({number(low)}..{number(high)})" if len(self.values) > 1 else ""
        return f"{number(middle)} {self.unit}{spread}"


@dataclass(frozen=True)
class Target:
    """A bound on the judged number; `unit` is "x", "%", "points" or "s". A share is a number of 0 to 1."""

    unit: str
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        if self.least is not None:
            return f"at least {self.show(self.least)}"
        return f"at most {self.show(self.most)}" if self.most is not None else ""

    def show(self, value: float) -> str:
        """A number in the target's unit."""
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{value:.2f} {self.unit}"

    def met(self, value: float) -> bool:
        """Whether the number keeps to the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True)
class Row:
    """A line of the table; `theirs` is left out where there is no peer, `mode` says how llama.cpp was run."""

    name: str
    target: Target
    value: float
    ours: Sample | str = ""
    theirs: Sample | str = ""
    mode: str = ""

    def __str__(self) -> str:
        theirs = f"{self.theirs} [{self.mode}]" if self.mode else str(self.theirs)
        bound = self.target.least is not None or self.target.most is not None
        met = ("yes" if self.target.met(self.value) else "**no**") if bound else ""
        cells = [self.name, str(self.target), str(self.ours), theirs, self.target.show(self.value), met]
        return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """The table in Markdown."""
    yield HEAD
    yield from map(str, rows)
