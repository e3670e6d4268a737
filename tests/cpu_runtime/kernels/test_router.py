from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.router import sigmoid_top_k, softmax_top_k
from tests import reference


def route(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids, weights = np.empty((logits.shape[0], k), np.int32), np.empty((logits.shape[0], k), np.float32)
    softmax_top_k(logits, k, ids, weights)
    return ids, weights


@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (8, 2), (12, 3), (12, 12), (512, 10)])
def test_router_matches_its_twin(tokens: int, experts: int, k: int) -> None:
    logits = 3 * np.random.default_rng(0).standard_normal((tokens, experts)).astype(np.float32)
    ids, weights = route(logits, k)
    expected_ids, expected_weights = reference.softmax_top_k(logits, k)
    assert np.array_equal(ids, expected_ids)
    np.testing.assert_allclose(weights, expected_weights, rtol=2e-6)


def test_equal_scores_go_to_the_lower_index() -> None:
    logits = np.array([[1, 2, 2, 0, 2, 1], [0, 0, 0, 0, 0, 0]], np.float32)
    assert route(logits, 4)[0].tolist() == [[1, 2, 4, 0], [0, 1, 2, 3]]


@pytest.mark.parametrize("far", [100.0, 3e4, 3e38, np.inf])
def test_extreme_scores_stay_finite(far: float) -> None:
    logits = np.array([[-far, 5, 4, -far], [-far, -far, 1, -far]], np.float32)
    ids, weights = route(logits, 2)
    assert ids.tolist() == [[1, 2], [2, 0]]
    expected = [[1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], [1, 0]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_large_scores_do_not_overflow() -> None:
    np.testing.assert_allclose(route(np.array([[3e38, 3e38, -3e38]], np.float32), 2)[1], [[0.5, 0.5]])


def route_by_sigmoid(logits: np.ndarray, bias: np.ndarray, groups: int, kept: int, k: int) -> tuple[np.ndarray, ...]:
    ids, weights = np.empty((logits.shape[0], k), np.int32), np.empty((logits.shape[0], k), np.float32)
    sigmoid_top_k(logits, bias, groups, kept, k, np.float32(1e-20), np.float32(2.5), ids, weights)
    return ids, weights


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize(
    ("experts", "groups", "kept", "k"), [(8, 1, 1, 2), (8, 4, 2, 3), (4, 4, 2, 2), (256, 8, 4, 8), (384, 1, 1, 8)]
)
def test_sigmoid_router_matches_its_twin(tokens: int, experts: int, groups: int, kept: int, k: int) -> None:
    rng = np.random.default_rng(1)
    logits = 2 * rng.standard_normal((tokens, experts)).astype(np.float32)
    bias = rng.standard_normal(experts).astype(np.float32)
    ids, weights = route_by_sigmoid(logits, bias, groups, kept, k)
    expected_ids, expected_weights = reference.sigmoid_top_k(logits, bias, groups, kept, k, 1e-20, 2.5)
    assert np.array_equal(ids, expected_ids)
    np.testing.assert_allclose(weights, expected_weights, rtol=2e-6)


def test_a_closed_group_is_not_chosen_even_where_all_others_are_below_zero() -> None:
    logits, bias = np.zeros((1, 6), np.float32), np.array([-3, -3, -4, -4, -5, -5], np.float32)
    assert route_by_sigmoid(logits, bias, 3, 2, 4)[0].tolist() == [[0, 1, 2, 3]]


def test_the_bias_chooses_but_does_not_weigh() -> None:
    ids, weights = route_by_sigmoid(np.array([[4, 0, 0]], np.float32), np.array([0, 9, 0], np.float32), 1, 1, 2)
    assert ids.tolist() == [[1, 0]]
    assert weights[0, 0] < weights[0, 1]
