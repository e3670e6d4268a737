from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels import delta
from quant.jit import set_threads
from tests import reference

EPS = np.float32(1e-6)


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- convolution ---


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 65])
@pytest.mark.parametrize("channels", [1, 33, 64, 1300])
@pytest.mark.parametrize("taps", [2, 4])
def test_convolution_matches_its_twin(tokens: int, channels: int, taps: int) -> None:
    x, weight, state = rows(tokens, channels), rows(taps, channels, seed=1), rows(taps - 1, channels, seed=2)
    expected_state = state.copy()
    expected = reference.causal_conv_silu(x, weight, expected_state)
    out = np.empty_like(x)
    delta.causal_conv_silu(x, weight, state, out)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    assert np.array_equal(state, expected_state)


def test_convolution_in_pieces_is_the_same_bits() -> None:
    x, weight = rows(20, 70), rows(4, 70, seed=1)
    whole, pieces = np.empty_like(x), np.empty_like(x)
    state, moved = np.zeros((3, 70), np.float32), np.zeros((3, 70), np.float32)
    delta.causal_conv_silu(x, weight, state, whole)
    for first, last in ((0, 1), (1, 3), (3, 4), (4, 11), (11, 20)):
        delta.causal_conv_silu(x[first:last], weight, moved, pieces[first:last])
    assert np.array_equal(whole, pieces)
    assert np.array_equal(state, moved)


# --- gates ---


def test_gates_match_their_twins() -> None:
    a, b, a_log, dt_bias = rows(7, 12), rows(7, 12, seed=1), rows(12, seed=2), rows(12, seed=3)
    decay, beta = np.empty_like(a), np.empty_like(a)
    delta.delta_gates(a, b, a_log, dt_bias, decay, beta)
    expected_decay, expected_beta = reference.delta_gates(a, b, a_log, dt_bias)
    np.testing.assert_allclose(decay, expected_decay, rtol=1e-6)
    np.testing.assert_allclose(beta, expected_beta, rtol=1e-6)


def test_gates_do_not_overflow() -> None:
    a = np.array([[-1000, -100, 0, 100, 1000]], np.float32)
    decay, beta = np.empty_like(a), np.empty_like(a)
    zero = np.zeros(5, np.float32)
    delta.delta_gates(a, a, zero, zero, decay, beta)
    np.testing.assert_allclose(decay, -np.logaddexp(0, a.astype(np.float64)), rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(beta, [[0, 0, 0.5, 1, 1]], atol=1e-37)


# --- recurrence ---


def recurrence(tokens: int, key_heads: int, value_heads: int, dk: int, dv: int) -> list[np.ndarray]:
    """q, k, v, decay, beta."""
    q, k = rows(tokens, key_heads, dk), rows(tokens, key_heads, dk, seed=1)
    v = rows(tokens, value_heads, dv, seed=2)
    decay = -np.abs(rows(tokens, value_heads, seed=3))
    return [q, k, v, decay, np.abs(rows(tokens, value_heads, seed=4)) % 1]


@pytest.mark.parametrize("tokens", [1, 2, 7, 65])
@pytest.mark.parametrize(("key_heads", "value_heads"), [(1, 1), (2, 4), (3, 12)])
@pytest.mark.parametrize(("dk", "dv"), [(16, 32), (64, 64), (7, 9), (128, 128)])
def test_recurrence_matches_its_twin(tokens: int, key_heads: int, value_heads: int, dk: int, dv: int) -> None:
    inputs = recurrence(tokens, key_heads, value_heads, dk, dv)
    state = 0.3 * rows(value_heads, dk, dv, seed=5)
    expected_state = state.copy()
    expected = reference.gated_delta(*inputs, expected_state)
    out = np.empty_like(inputs[2])
    delta.gated_delta(*inputs, state, out)
    np.testing.assert_allclose(out, expected, atol=3e-6)
    np.testing.assert_allclose(state, expected_state, atol=5e-6)


@pytest.mark.parametrize("size", [7, 32, 64, 80])  # a memory that is worked on in place for a token alone, or not
def test_recurrence_in_pieces_of_views_and_on_one_thread_is_the_same_bits(size: int) -> None:
    side_by_side = rows(40, 2 * 2 * size + 4 * size)
    q = side_by_side[:, : 2 * size].reshape(40, 2, size)
    k = side_by_side[:, 2 * size : 4 * size].reshape(40, 2, size)
    v = side_by_side[:, 4 * size :].reshape(40, 4, size)
    _, _, _, decay, beta = recurrence(40, 2, 4, size, size)
    whole, pieces, single = (np.empty((40, 4, size), np.float32) for _ in range(3))
    state, moved, alone = (np.zeros((4, size, size), np.float32) for _ in range(3))
    delta.gated_delta(q, k, v, decay, beta, state, whole)
    for first, last in ((0, 1), (1, 2), (2, 9), (9, 40)):
        t = slice(first, last)
        delta.gated_delta(q[t], k[t], v[t], decay[t], beta[t], moved, pieces[t])
    set_threads(1)
    delta.gated_delta(q, k, v, decay, beta, alone, single)
    set_threads(64)
    assert np.array_equal(whole, pieces)
    assert np.array_equal(whole, single)
    assert np.array_equal(state, moved)
    assert np.array_equal(state, alone)


def test_keys_of_zero_leave_the_memory_finite() -> None:
    q, k, v, decay, beta = recurrence(3, 1, 2, 16, 16)
    state, out = np.ones((2, 16, 16), np.float32), np.empty_like(v)
    delta.gated_delta(0 * q, 0 * k, v, decay - 200, beta, state, out)
    assert not out.any()
    np.testing.assert_allclose(state, 0, atol=1e-30)


# --- around it ---


@pytest.mark.parametrize("tokens", [1, 7, 65])
@pytest.mark.parametrize("size", [9, 32, 128])
def test_gated_norm_matches_its_twin(tokens: int, size: int) -> None:
    x, z, weight = rows(tokens, 3, size), 4 * rows(tokens, 3, size, seed=1), rows(size, seed=2)
    out, own = np.empty_like(x), x.copy()
    delta.gated_norm(x, z, weight, EPS, out)
    delta.gated_norm(own, z, weight, EPS, own)
    expected = reference.gated_norm(x, z, weight, EPS)
    np.testing.assert_allclose(out, expected, atol=4e-6)
    np.testing.assert_allclose(own, expected, atol=4e-6)


@pytest.mark.parametrize("tokens", [1, 7, 65])
def test_sigmoid_gate_matches_its_twin(tokens: int) -> None:
    query_gate = 4 * rows(tokens, 3, 64, seed=1)
    x, gate = rows(tokens, 3, 32), query_gate[:, :, 32:]
    out = np.empty_like(x)
    delta.sigmoid_gate(x, gate, out)
    np.testing.assert_allclose(out, reference.sigmoid_gate(x, gate), atol=1e-6)
    delta.sigmoid_gate(x, gate, x)
    np.testing.assert_allclose(x, out, atol=1e-6)


def test_gates_far_from_zero_are_open_or_shut() -> None:
    far = np.array([[[-1000, -100, 100, 1000]]], np.float32)
    out = np.empty_like(far)
    delta.sigmoid_gate(np.ones_like(far), far, out)
    np.testing.assert_allclose(out, [[[0, 0, 1, 1]]], atol=1e-37)
