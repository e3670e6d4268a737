from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.activations import quantize_rows
from cpu_runtime.kernels.experts import weighted_sum
from cpu_runtime.kernels.one_token import quantize_token, weighted_sum_of_token
from tests import reference


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("active", [1, 8])
def test_a_token_s_answers_are_weighed_as_those_of_many(active: int) -> None:
    answers, weights = gaussian(active, 112), gaussian(1, active, seed=1)
    alone, among = np.empty((1, 112), np.float32), np.empty((1, 112), np.float32)
    weighted_sum_of_token(answers, weights, alone)
    weighted_sum(answers, np.arange(active, dtype=np.int32)[None], weights, among)
    assert np.array_equal(alone, among)
    np.testing.assert_allclose(alone, weights.astype(np.float64) @ answers, atol=1e-5)


def test_a_token_is_quantized_as_many_are() -> None:
    x = gaussian(1, 192)
    alone, among = (
        (np.empty((1, 192), np.int8), np.empty((1, 6), np.float32), np.empty((1, 12, 2), np.int16)) for _ in range(2)
    )
    quantize_token(x, *alone)
    quantize_rows(x, *among)
    for found, same, twin in zip(alone, among, reference.quantize_rows(x), strict=True):
        assert np.array_equal(found, same)
        np.testing.assert_allclose(found, twin, rtol=1e-6)
