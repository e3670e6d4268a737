from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels import rope
from tests import reference

KINDS = ["rotate_half_split", "rotate_interleaved"]


def case(tokens: int, size: int, rotated: int) -> tuple[np.ndarray, np.ndarray]:
    heads = np.random.default_rng(0).standard_normal((tokens, 3, size)).astype(np.float32)
    return heads, (1e4 ** -(np.arange(0, rotated, 2) / rotated)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 65])
@pytest.mark.parametrize(("size", "rotated"), [(32, 32), (64, 16), (256, 64), (6, 2)])
@pytest.mark.parametrize("start", [0, 200_003])
def test_rotation_matches_its_twin(kind: str, tokens: int, size: int, rotated: int, start: int) -> None:
    heads, inv_freq = case(tokens, size, rotated)
    expected = getattr(reference, kind)(heads, start, inv_freq)
    getattr(rope, kind)(heads, start, inv_freq)
    np.testing.assert_allclose(heads, expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rotation_in_pieces_is_the_same_bits(kind: str) -> None:
    whole, inv_freq = case(9, 64, 16)
    pieces = whole.copy()
    getattr(rope, kind)(whole, 100, inv_freq)
    for t in range(9):
        getattr(rope, kind)(pieces[t : t + 1], 100 + t, inv_freq)
    assert np.array_equal(whole, pieces)


def test_scores_depend_only_on_the_distance() -> None:
    heads, inv_freq = case(1, 64, 64)

    def score(query_at: int, key_at: int) -> float:
        query, key = heads.copy(), heads.copy()
        rope.rotate_half_split(query, query_at, inv_freq)
        rope.rotate_half_split(key, key_at, inv_freq)
        return float((query[0, 0] * key[0, 0]).sum())

    assert score(12, 5) == pytest.approx(score(1007, 1000), abs=1e-3)
    assert score(12, 5) != pytest.approx(score(12, 9), abs=1e-3)
