from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.pages import PAGE, as_stored
from cpu_runtime.kernels.qkv import ready_and_keep
from cpu_runtime.layers.rope import Frequencies, HalfSplitRope
from tests import reference

HEADS, KV_HEADS, SIZE, EPS = 4, 2, 32, np.float32(1e-6)
ROPE = HalfSplitRope(Frequencies((1e4 ** -(np.arange(0, 16, 2) / 16)).astype(np.float32), magnitude=1.25))


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def projected(tokens: int) -> list[np.ndarray]:
    return [gaussian(tokens, n * SIZE, seed=seed) for seed, n in enumerate((HEADS, KV_HEADS, KV_HEADS))]


def pages(dtype: type) -> np.ndarray:
    return np.zeros((2, KV_HEADS, PAGE, SIZE), dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("width", [0, SIZE, None], ids=["none", "a head", "all heads"])
def test_queries_and_keys_are_normed_rotated_and_kept(dtype: type, width: int | None) -> None:
    query, key, value = projected(5)
    weights = [1 + gaussian(x.shape[1] if width is None else width, seed=3) for x in (query, key)]
    start, expected = PAGE - 2, []
    for x, weight, heads in zip((query, key), weights, (HEADS, KV_HEADS), strict=True):
        normed = reference.rms_norm(x.reshape(5, -1, weight.size), weight, EPS) if weight.size else x
        turned = reference.rotate_half_split(normed.reshape(5, heads, SIZE), start, ROPE.frequencies.inv_freq)
        turned[:, :, :16] *= 1.25
        expected.append(turned)
    keys, values = pages(dtype), pages(dtype)
    norms = weights[0], EPS, weights[1], EPS
    ready_and_keep(query, key, value, norms, ROPE.turn, start, as_stored(keys), as_stored(values))
    np.testing.assert_allclose(query.reshape(5, HEADS, SIZE), expected[0], atol=2e-6)
    np.testing.assert_allclose(key.reshape(5, KV_HEADS, SIZE), expected[1], atol=2e-6)
    for stored, rows in ((keys, key), (values, value)):
        flat = stored.swapaxes(1, 2).reshape(2 * PAGE, -1)
        assert np.array_equal(flat[start : start + 5], rows.astype(dtype))
        assert not flat[:start].any() and not flat[start + 5 :].any()


def test_token_by_token_is_the_same_bits() -> None:
    weights = 1 + gaussian(SIZE, seed=3), EPS, 1 + gaussian(SIZE, seed=4), EPS
    whole, pieces = projected(7), projected(7)
    kept = [(pages(np.float16), pages(np.float16)) for _ in range(2)]
    ready_and_keep(*whole, weights, ROPE.turn, 250, *map(as_stored, kept[0]))
    for t in range(7):
        ready_and_keep(*(x[t : t + 1] for x in pieces), weights, ROPE.turn, 250 + t, *map(as_stored, kept[1]))
    for found, expected in zip((*whole, *kept[0]), (*pieces, *kept[1]), strict=True):
        assert np.array_equal(found, expected)
