from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.reductions import add_squares, lane, larger, largest_of, sums_of
from cpu_runtime.kernels.vectors import load_f32, splat1, store_f32, sum_of
from quant.jit import kernel


@kernel
def every_operation(x, sums, alone, top, spread, picked):
    v0, v1 = load_f32(x, 0, LANES), load_f32(x, LANES, LANES)
    v2, v3 = load_f32(x, 2 * LANES, LANES), load_f32(x, 3 * LANES, LANES)
    four = sums_of(v0, v1, v2, v3)
    store_f32(sums, 0, four)
    alone[0], alone[1], alone[2], alone[3] = sum_of(v0), sum_of(v1), sum_of(v2), sum_of(v3)
    store_f32(top, 0, larger(v0, v1))
    top[LANES] = largest_of(v0)
    store_f32(spread, 0, splat1(x, 3, LANES))
    for i in range(4):
        picked[i] = lane(four, i)


def test_lanes_are_summed_and_compared() -> None:
    x = np.random.default_rng(0).standard_normal((4, LANES)).astype(np.float32)
    sums, alone, picked = np.empty((3, 4), np.float32)
    top, spread = np.empty(LANES + 1, np.float32), np.empty(LANES, np.float32)
    every_operation(x, sums, alone, top, spread, picked)
    assert np.array_equal(sums, alone)  # the same order, so the same bits
    np.testing.assert_allclose(sums, x.sum(1, dtype=np.float64), atol=1e-5)
    assert np.array_equal(picked, sums)
    assert np.array_equal(top[:LANES], np.maximum(x[0], x[1]))
    assert top[LANES] == x[0].max()
    assert (spread == x[0, 3]).all()


@kernel
def squares(x, before, found):
    found[0] = add_squares(before, load_f32(x, 0, 32))
    found[1] = add_squares(before, load_f32(x, 0, 1))


def test_squares_are_added_in_float64_halves_first() -> None:
    x, found = np.random.default_rng(1).standard_normal(32).astype(np.float32) * 1000, np.empty(2)
    squares(x, 0.1, found)
    halves = x.astype(np.float64) ** 2
    while halves.size > 1:
        halves = halves[: halves.size // 2] + halves[halves.size // 2 :]
    assert found.tolist() == [0.1 + halves[0], 0.1 + float(x[0]) ** 2]
