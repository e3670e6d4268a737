from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.norm import layer_norm, rms_norm
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.residual import Residual
from tests import reference

EPS = np.float32(1e-6)


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
@pytest.mark.parametrize("width", [1, 31, 64, 96, 4096])
def test_rms_norm_matches_its_twin(tokens: int, width: int) -> None:
    x, weight = 3 * rows(tokens, width), 1 + rows(width, seed=1)
    out = np.empty_like(x)
    rms_norm(x, weight, EPS, out)
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, EPS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e-4, 1e18])
def test_rms_norm_holds_at_any_size(size: float) -> None:
    x, weight = (rows(3, 64) * size).astype(np.float32), 1 + rows(64, seed=1)
    out = np.empty_like(x)
    rms_norm(x, weight, EPS, out)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, EPS), rtol=2e-6, atol=1e-30)


def test_rms_norm_of_a_view_in_place_and_row_by_row_are_the_same_bits() -> None:
    wide, weight = rows(7, 128), 1 + rows(96, seed=1)
    x = wide[:, :96]
    out, alone, own = np.empty((7, 96), np.float32), np.empty((7, 96), np.float32), x.copy()
    rms_norm(x, weight, EPS, out)
    for t in range(7):
        rms_norm(x[t : t + 1], weight, EPS, alone[t : t + 1])
    rms_norm(own, weight, EPS, own)
    assert np.array_equal(out, alone)
    assert np.array_equal(out, own)


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("width", [16, 31, 128])
def test_layer_norm_matches_its_twin(tokens: int, width: int) -> None:
    x, weight, bias = 5 + 3 * rows(tokens, width), 1 + rows(width, seed=1), rows(width, seed=2)
    out = np.empty_like(x)
    layer_norm(x, weight, bias, EPS, out)
    np.testing.assert_allclose(out, reference.layer_norm(x, weight, bias, EPS), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("tokens", [1, 2, 65])
@pytest.mark.parametrize("width", [64, 96, 2048])
def test_rms_norm_and_quantization_in_one_pass_are_the_two_in_turn(tokens: int, width: int) -> None:
    x, norm = 3 * rows(tokens, width), RMSNorm(1 + rows(width, seed=1), 1e-6)
    at_once, in_turn = Activations.normed(norm, x), Activations(norm.in_place(x.copy()))
    assert np.array_equal(at_once.x, in_turn.x)
    for found, expected in zip(at_once.int8, in_turn.int8, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("width", [16, 96, 2048])
def test_a_token_alone_is_the_same_bits_as_among_others(width: int) -> None:
    x, norm = 3 * rows(5, width), RMSNorm(1 + rows(width, seed=1), 1e-6)
    together = Activations.normed(norm, x)
    for t in range(5):
        alone = Activations.normed(norm, x[t : t + 1])
        for found, expected in zip((alone.x, *alone.int8), (together.x, *together.int8), strict=True):
            assert np.array_equal(found, expected[t : t + 1] if len(found) else found)


@pytest.mark.parametrize("tokens", [1, 3])
def test_what_blocks_add_is_in_the_next_norm_and_in_the_end(tokens: int) -> None:
    x, first, second = (rows(tokens, 96, seed=seed) for seed in range(3))
    norm, residual = RMSNorm(1 + rows(96, seed=3), 1e-6), Residual(x.copy())
    assert np.array_equal(residual.normed(norm).x, Activations.normed(norm, x).x)
    residual.add(first)
    assert np.array_equal(residual.normed(norm).x, Activations.normed(norm, x + first).x)
    assert np.array_equal(residual.normed(norm).x, Activations.normed(norm, x + first).x), "added once"
    residual.add(second)
    residual.add(second)
    assert np.array_equal(residual.settle(), x + first + second + second)
