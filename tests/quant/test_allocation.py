from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.allocation import Option, allocate, hull, least_bytes

OPTIONS = st.lists(st.builds(Option, st.integers(1, 40), st.integers(0, 1000).map(float)), min_size=1, max_size=4)
THINGS = st.lists(OPTIONS, min_size=1, max_size=4)


def total(things: list[list[Option]], chosen: tuple[int, ...] | list[int]) -> tuple[int, float]:
    """(bytes, error) of a choice."""
    taken = [options[n] for options, n in zip(things, chosen, strict=True)]
    return sum(o.bytes for o in taken), sum(o.error for o in taken)


def best(things: list[list[Option]], most: int) -> float:
    """The least error of any choice within so many bytes."""
    found = [total(things, chosen) for chosen in product(*(range(len(options)) for options in things))]
    return min(error for size, error in found if size <= most)


@given(THINGS, st.integers(0, 100))
def test_the_choice_fits_and_misses_the_best_of_all_by_one_step_at_most(things: list[list[Option]], spare: int) -> None:
    most = least_bytes(things) + spare
    size, error = total(things, allocate(things, most))
    assert size <= most
    # Nothing that a single step of any thing could save is left by more than that step.
    steps = [options[a].error - options[b].error for options in things for a, b in _edges(options)]
    assert error <= best(things, most) + max(steps, default=0.0)


@given(THINGS)
def test_at_the_corners_of_the_hull_it_is_the_best_of_all(things: list[list[Option]]) -> None:
    savings = sorted({_saving(o[a], o[b]) for o in things for a, b in _edges(o)}, reverse=True)
    for price in savings:
        chosen = []
        for options in things:
            edge = hull(options)
            taken = sum(_saving(options[a], options[b]) >= price for a, b in _edges(options))
            chosen.append(edge[taken])
        size, error = total(things, chosen)
        found = allocate(things, size)
        assert total(things, found)[1] <= error + 1e-9
        assert error <= best(things, size) + 1e-9


def _edges(options: list[Option]) -> list[tuple[int, int]]:
    edge = hull(options)
    return list(zip(edge, edge[1:], strict=False))


def _saving(small: Option, large: Option) -> float:
    return (small.error - large.error) / (large.bytes - small.bytes)


def test_the_hull_leaves_out_what_no_price_would_choose() -> None:
    options = [Option(10, 4.0), Option(4, 100.0), Option(6, 60.0), Option(5, 50.0), Option(8, 45.0), Option(12, 4.0)]
    assert hull(options) == [1, 3, 0]


def test_bytes_that_are_left_go_to_what_still_fits() -> None:
    things = [[Option(1, 10.0), Option(10, 0.0)], [Option(1, 5.0), Option(3, 4.0)]]
    assert allocate(things, 11) == [1, 0]
    assert allocate(things, 9) == [0, 1]


@pytest.mark.parametrize("spare", [0, 1])
def test_the_least_is_what_the_smallest_options_take(spare: int) -> None:
    things = [[Option(3, 1.0), Option(2, 2.0)], [Option(7, 0.0)]]
    assert allocate(things, least_bytes(things) + spare) == [1 - spare, 0]
