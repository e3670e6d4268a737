from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.layers.rope import Frequencies, HalfSplitRope, InterleavedRope, Rope
from tests import reference

TWINS = {HalfSplitRope: reference.rotate_half_split, InterleavedRope: reference.rotate_interleaved}


def case(tokens: int, size: int, rotated: int) -> tuple[np.ndarray, np.ndarray]:
    heads = np.random.default_rng(0).standard_normal((tokens, 3, size)).astype(np.float32)
    return heads, (1e4 ** -(np.arange(0, rotated, 2) / rotated)).astype(np.float32)


@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("tokens", [1, 2, 65])
@pytest.mark.parametrize(("size", "rotated"), [(32, 32), (64, 16), (256, 64), (6, 2)])
@pytest.mark.parametrize("start", [0, 200_003])
def test_rotation_matches_its_twin(kind: type[Rope], tokens: int, size: int, rotated: int, start: int) -> None:
    heads, inv_freq = case(tokens, size, rotated)
    turn = kind(Frequencies(inv_freq))
    expected = TWINS[kind](heads, start, inv_freq)
    turn(heads, start)
    np.testing.assert_allclose(heads, expected, atol=1e-6)


@pytest.mark.parametrize("kind", TWINS)
def test_rotation_in_pieces_is_the_same_bits(kind: type[Rope]) -> None:
    whole, inv_freq = case(9, 64, 16)
    pieces, turn = whole.copy(), kind(Frequencies(inv_freq))
    turn(whole, 100)
    for t in range(9):
        turn(pieces[t : t + 1], 100 + t)
    assert np.array_equal(whole, pieces)


def test_scores_depend_only_on_the_distance() -> None:
    heads, inv_freq = case(1, 64, 64)
    turn = HalfSplitRope(Frequencies(inv_freq))

    def score(query_at: int, key_at: int) -> float:
        query, key = heads.copy(), heads.copy()
        turn(query, query_at)
        turn(key, key_at)
        return float((query[0, 0] * key[0, 0]).sum())

    assert score(12, 5) == pytest.approx(score(1007, 1000), abs=1e-3)
    assert score(12, 5) != pytest.approx(score(12, 9), abs=1e-3)
