from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.kernels.activations import LIFT
from cpu_runtime.kernels.cpu import DOTS, OFFSET
from cpu_runtime.kernels.packs import PACK
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.norm import RMSNorm


@pytest.fixture
def made() -> Activations:
    return Activations(np.random.default_rng(0).standard_normal((5, 192)).astype(np.float32))


def test_a_pack_holds_twice_16_inputs_with_where_sums_start_and_the_scale(made: Activations) -> None:
    q, scale, sums = made.int8
    packs = made.packs.reshape(5, 6, PACK)
    halves = packs[:, :, :40].reshape(5, 12, 20)
    assert np.array_equal(halves[:, :, :16], q.reshape(5, 12, 16))
    starts = halves[:, :, 16:].copy()
    if DOTS:
        assert np.array_equal(starts.view(np.int32)[:, :, 0], -LIFT * q.reshape(5, 12, 16).sum(2, dtype=np.int32))
        whole = packs[:, :, 44:].copy().view(np.int32)[:, :, 0]
        assert np.array_equal(whole, -OFFSET * q.reshape(5, 6, 32).sum(2, dtype=np.int32))
    else:
        assert np.array_equal(starts.view(np.int16), sums)
    assert np.array_equal(packs[:, :, 40:44].copy().view(np.float32)[:, :, 0], scale)


def test_a_wide_pack_holds_32_inputs_in_the_order_of_its_panel_and_the_scale(made: Activations) -> None:
    q, scale, _ = made.int8
    packs = made.wide_packs.reshape(5, 6, 68)
    inputs = packs[:, :, :64].copy().view(np.int16).reshape(5, -1, 4)
    assert np.array_equal(inputs, q.reshape(5, -1, 4)[:, :, [0, 2, 1, 3]])
    assert np.array_equal(packs[:, :, 64:].copy().view(np.float32)[:, :, 0], scale)


def test_rows_normed_anew_are_packed_anew() -> None:
    norm, x = RMSNorm(np.ones(192, np.float32), 1e-6), np.random.default_rng(1).standard_normal((5, 192))
    rows = Activations.room((5, 192))
    for sign in (1, -1):
        rows.norm(norm, (sign * x).astype(np.float32), None)
        assert np.array_equal(rows.packs[:, :16], rows.int8[0][:, :16])
        assert np.array_equal(rows.wide_packs.view(np.int16)[:, 0], rows.int8[0][:, 0])
