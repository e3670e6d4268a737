"""The arithmetic of `moe fit`, on rates that make it easy."""

from __future__ import annotations

import pytest

from cpu_runtime.fit import OVERHEAD, predict, split
from cpu_runtime.footprint import Footprint
from cpu_runtime.roofs import Rate, Rates
from quant.formats import FORMATS
from tests.cpu_runtime.test_footprint import from_config
from tests.published import PUBLISHED

RATES = Rates(2, 1e10, 1e12, {name: Rate(1e10, 1e11) for name in FORMATS}, 0.0)


@pytest.fixture(scope="module")
def minimax() -> Footprint:
    return from_config(PUBLISHED["MiniMax-M2.5"], "int4")


def test_with_room_for_all(minimax: Footprint) -> None:
    parts = split(minimax, 10**12, 4096)
    assert parts.runs
    assert parts.whole
    assert parts.share == 1
    found = predict(minimax, parts, RATES, 1e9)
    assert found.missed_bytes == 0
    # The padding of records is not read.
    read = minimax.always_bytes + 62 * 8 * sum(work.bytes for work in minimax.expert)
    assert found.decode == pytest.approx(1e10 / read)
    assert found.first > 1000 * minimax.products / 1e11


def test_half_of_the_experts(minimax: Footprint) -> None:
    memory = minimax.dense_bytes + minimax.cache_bytes(4096) + OVERHEAD + minimax.expert_bytes // 2
    whole, half = split(minimax, 10**12, 4096), split(minimax, memory, 4096)
    assert half.runs
    assert not half.whole
    assert half.share == pytest.approx(0.5)
    fast, slow = (predict(minimax, parts, RATES, 1e9) for parts in (whole, half))
    assert slow.hit_rate == pytest.approx(0.5)
    assert 1 / slow.decode - 1 / fast.decode == pytest.approx(minimax.routed_bytes / 2 / 1e9)
    # Four chunks of at most 256 tokens, each of which activates nearly all experts.
    read_s = slow.first - fast.first
    assert 0.98 * 4 * minimax.expert_bytes / 2 / 1e9 < read_s < 4 * minimax.expert_bytes / 2 / 1e9


def test_with_too_little(minimax: Footprint) -> None:
    least = minimax.dense_bytes + minimax.cache_bytes(4096) + OVERHEAD + 8 * minimax.records[0]
    assert split(minimax, least, 4096).runs
    none = split(minimax, least - 1, 4096)
    assert not none.runs
    assert none.needed == least
    assert split(minimax, 1, 4096).experts == 0


def test_more_context_leaves_fewer_experts(minimax: Footprint) -> None:
    short, long = (split(minimax, 32 * 10**9, ctx) for ctx in (4096, 32_768))
    assert short.experts - long.experts == minimax.cache_bytes(32_768) - minimax.cache_bytes(4096)


def test_small_matrices_cost_their_call(minimax: Footprint) -> None:
    parts = split(minimax, 10**12, 4096)
    slower = Rates(2, 1e10, 1e12, RATES.formats, 1e-5)
    more = 1 / predict(minimax, parts, slower, 1e9).decode - 1 / predict(minimax, parts, RATES, 1e9).decode
    assert more == pytest.approx(2 * 1e-5 * (62 * (5 + 3) + 1))  # q k v o router, gate up down; and the head
