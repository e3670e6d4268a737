from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels import exponential
from tests import reference


def each(name: str, x: np.ndarray) -> np.ndarray:
    function = getattr(exponential, name)
    return np.array([function(one) for one in x.astype(np.float32)])


def test_exp_is_close_over_its_range() -> None:
    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    np.testing.assert_allclose(each("exp", x), np.exp(x.astype(np.float64)), rtol=4e-7)


def test_exp_ends_in_zero_and_in_a_finite_number() -> None:
    assert each("exp", np.array([-np.inf, -1e30, -88])).tolist() == [0, 0, 0]
    assert np.isfinite(each("exp", np.array([89, 1e30, np.inf]))).all()
    assert each("exp", np.array([0])).tolist() == [1]


@pytest.mark.parametrize("name", ["sigmoid", "silu"])
def test_sigmoid_and_silu_match_their_twins(name: str) -> None:
    x = np.linspace(-80, 80, 5_001).astype(np.float32)
    np.testing.assert_allclose(each(name, x), getattr(reference, name)(x.astype(np.float64)), rtol=1e-6, atol=1e-33)
