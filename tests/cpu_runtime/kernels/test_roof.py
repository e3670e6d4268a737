from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime import roofs
from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.roof import ROWS, SUMS, TOKENS, f32_products, int8_products, sum_words
from cpu_runtime.layers.linear import Activations, Linear
from quant.formats import FORMATS
from tests import reference


def test_every_word_is_read_once() -> None:
    words = np.random.default_rng(0).integers(0, 100, 4 * 64 * 96, np.int16)
    sums = np.empty(64, np.float32)
    sum_words(words.view(np.int64), sums)
    assert sums.tolist() == words.reshape(64, -1).sum(1).tolist()


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("size", [4, 64, 512])
def test_products_match_their_twin(size: int, rounds: int) -> None:
    rng = np.random.default_rng(size)
    w = rng.integers(0, 128, (size // 4, ROWS, 4), np.int8)
    x = rng.integers(-127, 128, (TOKENS, size), np.int8)
    out = np.full((3, TOKENS, ROWS), np.nan, np.float32)
    int8_products(w, x, rounds, out)
    expected = reference.int8_products(w, x, rounds)
    for copy in out:
        assert np.array_equal(copy, expected)


def test_sums_in_registers_match_their_twin() -> None:
    start, x, y = (np.random.default_rng(0).standard_normal((n, LANES), np.float32) for n in (SUMS, 1, 1))
    out = np.full((3, SUMS, LANES), np.nan, np.float32)
    f32_products(start, x[0], y[0], 5, out)
    np.testing.assert_allclose(out, np.stack([reference.f32_products(start, x[0], y[0], 5)] * 3), atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_the_matrices_that_are_timed_are_of_ordinary_numbers(name: str) -> None:
    matrix = roofs.filled(FORMATS[name], 32, 128)
    assert (matrix.rows, len(matrix.tiles)) == (32, 2)
    answer = Linear(matrix)(Activations(np.ones((2, 128), np.float32)))
    assert np.isfinite(answer).all()
    assert (np.abs(answer) > np.finfo(np.float32).tiny).all()
