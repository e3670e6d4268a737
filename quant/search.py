"""The search for a row's books, scales and codes with the least squared error, for formats that code into books.

With the importance of each input, which is what its square is on average, an error counts as much as it changes what
the row answers.

A candidate is a book, a sign of the scale and a start scale, a share of the one that just covers the group's largest
weight. `Candidates` holds the level that each candidate has for each possible weight, a weight's levels in all
candidates side by side: a load, two multiplications and two additions give a weight's part in 8 candidates' sums at
once. From its sums a candidate has a least-squares scale; the largest over a segment makes the super-scale, and with
that known each candidate is judged once more by the error that it has with its scale as it would be stored.
Of the best of all books and stored scales this misses 0.03 to 0.1 dB: see FORMAT.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from quant.formats import Coded
from quant.jit import inner

_STEPS = 512  # of a weight between 0 and the largest of its group, where candidates look up their levels
_FINE = 8  # look-up steps a unit of level, for the codes that are stored
_REACH = 256  # units of level; beyond is the last level
_INDEX = np.int32(127)  # bits of a key that number the candidate
_LEAST = np.float32(1e-30)  # a group whose largest weight is below is 0 with any super-scale that is not


class Candidates(NamedTuple):
    """What to choose from, in tables."""

    levels: np.ndarray  # [2 * steps + 1, candidates] i8: the level nearest to a weight
    books: np.ndarray  # [candidates] u8
    codes: np.ndarray  # [books, 2 * reach * fine + 1] u8: the code nearest to a weight over its scale


def candidates(form: Coded, lowest: float, highest: float, count: int) -> Candidates:
    """Every book, both signs, `count` start scales from lowest to highest."""
    at = np.arange(-_STEPS, _STEPS + 1) / _STEPS
    fine = np.arange(-_REACH * _FINE, _REACH * _FINE + 1) / _FINE
    levels, books = [], []
    for number, book in enumerate(form.books.astype(np.float64)):
        for factor in np.linspace(lowest, highest, count):
            for sign in (1, -1):
                levels.append(book[_nearest(book, sign / factor * np.abs(book).max() * at)])
                books.append(number)
    codes = np.array([_nearest(book, fine) for book in form.books.astype(np.float64)], np.uint8)
    return Candidates(np.array(levels, np.int8).T.copy(), np.array(books, np.uint8), codes)


def _nearest(book: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The number of the level nearest to each x."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, x)


# Indices are unsigned, because a signed one is asked whether it counts from the end.
@inner
def _four(levels, n, a, b, c, d, x0, x1, x2, x3, sums):
    """Four weights' parts in each candidate's sums of x * level and level * level, the first and last n of `sums`."""
    for i in range(n):
        u = np.uint64(i)
        q0, q1, q2, q3 = (
            np.float32(levels[a + u]),
            np.float32(levels[b + u]),
            np.float32(levels[c + u]),
            np.float32(levels[d + u]),
        )
        sums[u] += x0 * q0 + x1 * q1 + x2 * q2 + x3 * q3
        sums[u + np.uint64(n)] += q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3


@inner
def _four_weighted(levels, n, a, b, c, d, x0, x1, x2, x3, w0, w1, w2, w3, sums):
    """The same, each weight's part as often as it is important: w of x * level and level * level."""
    for i in range(n):
        u = np.uint64(i)
        q0, q1, q2, q3 = (
            np.float32(levels[a + u]),
            np.float32(levels[b + u]),
            np.float32(levels[c + u]),
            np.float32(levels[d + u]),
        )
        p0, p1, p2, p3 = w0 * q0, w1 * q1, w2 * q2, w3 * q3
        sums[u] += x0 * p0 + x1 * p1 + x2 * p2 + x3 * p3
        sums[u + np.uint64(n)] += q0 * p0 + q1 * p1 + q2 * p2 + q3 * p3


@inner
def _row_of(x, n):
    """Where in the table the levels of a weight begin that is x steps from the least."""
    return np.uint64(np.int64(x)) * np.uint64(n)


@inner
def sum_up(x, levels, n, sums):
    """Every candidate's sums for one group, as shares of its largest weight, which is returned; 0: all of it is 0."""
    peak = _peak(x)
    sums[:] = np.float32(0)
    if peak < _LEAST:
        return np.float32(0)
    share = np.float32(1) / peak
    steps, middle = np.float32(_STEPS), np.float32(_STEPS) + np.float32(0.5)
    for k in range(0, x.size, 4):
        x0, x1, x2, x3 = x[k] * share, x[k + 1] * share, x[k + 2] * share, x[k + 3] * share
        _four(
            levels, n, _row_of(x0 * steps + middle, n), _row_of(x1 * steps + middle, n),
            _row_of(x2 * steps + middle, n), _row_of(x3 * steps + middle, n), x0, x1, x2, x3, sums,
        )  # fmt: skip
    return peak


@inner
def sum_up_weighted(x, importance, levels, n, sums):
    """The same, with the importance of each input."""
    peak = _peak(x)
    sums[:] = np.float32(0)
    if peak < _LEAST:
        return np.float32(0)
    share = np.float32(1) / peak
    steps, middle = np.float32(_STEPS), np.float32(_STEPS) + np.float32(0.5)
    for k in range(0, x.size, 4):
        x0, x1, x2, x3 = x[k] * share, x[k + 1] * share, x[k + 2] * share, x[k + 3] * share
        _four_weighted(
            levels, n, _row_of(x0 * steps + middle, n), _row_of(x1 * steps + middle, n),
            _row_of(x2 * steps + middle, n), _row_of(x3 * steps + middle, n), x0, x1, x2, x3,
            importance[k], importance[k + 1], importance[k + 2], importance[k + 3], sums,
        )  # fmt: skip
    return peak


@inner
def _peak(x):
    """The largest weight, without its sign."""
    peak = np.float32(0)
    for k in range(x.size):
        peak = max(peak, abs(x[k]))
    return peak


@inner
def best_scale(sums, n, keys):
    """The size of the least-squares scale of the candidate with the least error, as a share."""
    for i in range(n):
        u = np.uint64(i)
        xq = sums[u]
        gain = np.float32(xq * xq / sums[u + np.uint64(n)])  # the error is the sum of x * x less this
        keys[u] = (gain.view(np.int32) & ~_INDEX) | np.int32(i)
    best = np.uint64(_largest(keys, n))
    return abs(sums[best] / sums[best + np.uint64(n)])


@inner
def best_stored(sums, n, unit, largest, keys):
    """(candidate, s) with the least error where its scale is s * unit, s a whole number up to `largest`; or s = 0."""
    for i in range(n):
        u = np.uint64(i)
        xq, qq = sums[u], sums[u + np.uint64(n)]
        scale = min(max(np.rint(xq / (qq * unit)), -largest), largest) * unit
        gain = np.float32(max(scale * (np.float32(2) * xq - scale * qq), np.float32(0)))
        keys[u] = (gain.view(np.int32) & ~_INDEX) | np.int32(i)
    best = np.uint64(_largest(keys, n))
    s = min(max(np.rint(sums[best] / (sums[best + np.uint64(n)] * unit)), -largest), largest)
    return best, np.int32(s)


@inner
def _largest(keys, n):
    """The candidate of the largest key: a float of at least 0 compares as its bits do."""
    best = np.int32(0)
    for i in range(n):
        best = max(best, keys[np.uint64(i)])
    return best & _INDEX


@inner
def encode(x, nearest, scale, codes):
    """codes[k] = the code whose level times scale is nearest to x[k]; nearest: a book's row of the table."""
    steps = np.float32(_FINE) / scale
    middle, last = np.float32(_REACH * _FINE) + np.float32(0.5), np.float32(2 * _REACH * _FINE)
    for k in range(x.size):
        step = min(max(x[k] * steps + middle, np.float32(0)), last)
        codes[k] = nearest[np.uint32(np.int32(step))]
