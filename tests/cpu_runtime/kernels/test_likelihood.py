from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.likelihood import divergence, surprise
from tests import reference


def drawn(tokens: int, vocab: int, seed: int) -> np.ndarray:
    return (4 * np.random.default_rng(seed).standard_normal((tokens, vocab))).astype(np.float32)


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("vocab", [1, 2, 31, 1000])
def test_they_match_their_twins(tokens: int, vocab: int) -> None:
    base, logits = drawn(tokens, vocab, 0), drawn(tokens, vocab, 1)
    targets = np.random.default_rng(2).integers(0, vocab, tokens)
    nats, rows = np.empty(tokens), np.empty((tokens, 4))
    surprise(logits, targets, nats)
    divergence(base, logits, targets, rows)
    np.testing.assert_allclose(nats, reference.surprise(logits, targets), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(rows, reference.divergence(base, logits, targets), rtol=1e-11, atol=1e-12)


def test_a_difference_that_float32_does_not_resolve() -> None:
    base = drawn(8, 500, 0)
    logits = base + np.float32(1e-4) * drawn(8, 500, 1)
    rows, targets = np.empty((8, 4)), np.zeros(8, np.int64)
    divergence(base, logits, targets, rows)
    expected = reference.divergence(base, logits, targets)
    assert expected[:, 0].max() < 1e-6
    np.testing.assert_allclose(rows[:, 0], expected[:, 0], rtol=1e-6)
    divergence(base, base, targets, rows)
    assert not rows[:, 0].any()
    assert rows[:, 3].all()


def test_masked_and_huge_logits() -> None:
    base = np.array([[1e6, 1e6, -np.inf], [-1e6, -1e6, -1e6]], np.float32)
    rows = np.empty((2, 4))
    divergence(base, base, np.array([0, 2]), rows)
    np.testing.assert_allclose(rows, [[0, np.log(2), np.log(2), 1], [0, np.log(3), np.log(3), 1]], atol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_none(value: float) -> None:
    logits, out = drawn(2, 50, 0), np.empty(2)
    logits[1, 7] = value
    surprise(logits, np.array([3, 3]), out)
    assert np.isfinite(out).tolist() == [True, False]
