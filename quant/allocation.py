"""Dividing bytes among things that can each be had in several sizes, the larger with the smaller error.

Each option lies in the plane of bytes and error; those on the lower convex hull are all that a price per byte can
choose (Everett, "Generalized Lagrange multiplier method", 1963). Steps along the hulls are taken from the one that
saves most error a byte; what is left at the end goes to whatever still fits.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """One way to have a thing."""

    bytes: int
    error: float


def hull(options: Sequence[Option]) -> list[int]:
    """The options on the lower convex hull, from the smallest one to the one with the least error, by their numbers."""
    order = sorted(range(len(options)), key=lambda n: (options[n], n))
    found: list[int] = []
    for n in order:
        if found and options[n].error >= options[found[-1]].error:
            continue
        while len(found) > 1 and _saving(options, found[-1], n) >= _saving(options, found[-2], found[-1]):
            found.pop()
        found.append(n)
    return found


def least_bytes(things: Sequence[Sequence[Option]]) -> int:
    """The fewest bytes that all of them take."""
    return sum(min(option.bytes for option in options) for options in things)


def allocate(things: Sequence[Sequence[Option]], most: int) -> list[int]:
    """The number of an option for each thing: of little error together, and never more than `most` bytes.

    The error is that of the best choice of at most the bytes that are used before a step would no longer fit; of two
    steps that save alike, the one of the earlier thing is taken. `most` has to be `least_bytes` at least.
    """
    hulls = [hull(options) for options in things]
    chosen = [edge[0] for edge in hulls]
    left = most - sum(options[n].bytes for options, n in zip(things, chosen, strict=True))
    assert left >= 0
    steps = [step for thing, edge in enumerate(hulls) for step in _steps(things, thing, edge, 0)]
    heapq.heapify(steps)
    while steps:
        _, thing, at = heapq.heappop(steps)
        options, edge = things[thing], hulls[thing]
        more = options[edge[at + 1]].bytes - options[edge[at]].bytes
        if more <= left:
            chosen[thing], left = edge[at + 1], left - more
            for step in _steps(things, thing, edge, at + 1):
                heapq.heappush(steps, step)
    while better := _best_that_fits(things, chosen, left):
        thing, n = better
        left -= things[thing][n].bytes - things[thing][chosen[thing]].bytes
        chosen[thing] = n
    return chosen


def _saving(options: Sequence[Option], small: int, large: int) -> float:
    """Error saved a byte."""
    return (options[small].error - options[large].error) / (options[large].bytes - options[small].bytes)


def _steps(
    things: Sequence[Sequence[Option]], thing: int, edge: list[int], at: int
) -> Iterator[tuple[float, int, int]]:
    """The step from place `at` of a hull to the next, the dearest saving first in order; none from its end."""
    if at + 1 < len(edge):
        yield -_saving(things[thing], edge[at], edge[at + 1]), thing, at


def _best_that_fits(things: Sequence[Sequence[Option]], chosen: list[int], left: int) -> tuple[int, int] | None:
    """(thing, option) that saves the most error within the bytes left, on a hull or not."""
    best, found = 0.0, None
    for thing, options in enumerate(things):
        now = options[chosen[thing]]
        for n, option in enumerate(options):
            if option.bytes - now.bytes <= left and now.error - option.error > best:
                best, found = now.error - option.error, (thing, n)
    return found
