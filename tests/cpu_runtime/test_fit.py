"""The arithmetic of `moe fit`, on rates that make it easy; memory is divided as an engine does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine, fit, footprint, memory
from cpu_runtime.drive import Drive
from cpu_runtime.fit import divided, predict, repeating_hits, uniform_hits
from cpu_runtime.footprint import Footprint
from cpu_runtime.memory import Division
from cpu_runtime.rates import Rate, Rates
from quant.formats import FORMATS
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.cpu_runtime.test_footprint import from_config
from tests.published import PUBLISHED

FORMAT_RATES = {name: Rate(1e10, (1e11,) * 5) for name in FORMATS}
RATES = Rates(2, 1e10, 1e12, FORMAT_RATES, FORMAT_RATES, np.inf, np.inf, 0.0)
DRIVE = Drive(1e9, 0.0)


@pytest.fixture(scope="module")
def minimax() -> Footprint:
    return from_config(PUBLISHED["MiniMax-M2.5"], "int4")


def whole(f: Footprint) -> Division:
    return divided(f, 10**12, 4096)[1]


def with_share(f: Footprint, share: float) -> Division:
    d = whole(f)
    return divided(f, d.total - d.left + int(share * d.experts) + d.slot, 4096)[1]


@pytest.mark.parametrize("checkpoint", [DEMO, *(FIXTURES / n for n in ("kimi_k2_fp8", "minimax_m2_fp8"))])
@pytest.mark.parametrize("context", [None, 40])
def test_an_engine_divides_memory_as_foretold(
    quantized: Quantized, checkpoint: Path, context: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = memory.process_bytes()
    monkeypatch.setattr(memory, "process_bytes", lambda: now)
    monkeypatch.setattr(fit, "PROCESS", now)
    folder = quantized(checkpoint, "int4")
    for budget in (None, 900 * memory.MIB + now):
        with Engine.open(folder, context=context, memory_bytes=budget) as engine:
            weighs, text = footprint.of_model(engine.model), memory.tokenizer_bytes(folder)
            assert divided(weighs, engine.division.total, context, text) == (engine.context, engine.division)


def test_with_room_for_all(minimax: Footprint) -> None:
    parts = whole(minimax)
    assert parts.runs
    assert parts.fits
    assert uniform_hits(parts) == 1
    found = predict(minimax, parts, RATES, DRIVE)
    assert found.missed_bytes == 0
    # The padding of records is not read.
    read = minimax.always_bytes + 62 * 8 * sum(work.bytes for work in minimax.expert)
    assert found.decode == pytest.approx(1e10 / read)
    passes = 62 * 1000 * fit.PASSES * minimax.token_bytes / 1e10
    assert found.first == pytest.approx(1000 * minimax.products / 1e11 + minimax.head.bytes / 1e10 + passes)


def test_half_of_the_experts(minimax: Footprint) -> None:
    half = with_share(minimax, 0.5)
    assert half.runs
    assert not half.fits
    assert uniform_hits(half) == pytest.approx(0.5, abs=0.01)  # a longer chunk takes a little
    assert repeating_hits(half) == 0.5 + uniform_hits(half) / 2
    found = predict(minimax, half, RATES, DRIVE)
    assert found.hit_rate == uniform_hits(half)
    assert found.missed_bytes == (1 - uniform_hits(half)) * minimax.routed_bytes
    assert predict(minimax, half, RATES, DRIVE, repeating_hits(half)).decode > found.decode
    # A slow drive is all that counts, but for what it reads while attention is computed; then it does not count.
    slow = predict(minimax, half, RATES, Drive(1e7, 0.0))
    assert slow.decode == pytest.approx(1e7 / found.missed_bytes, rel=0.02)
    assert slow.first == pytest.approx((half.experts - half.kept) / 1e7 * -(-1000 // half.chunk), rel=0.02)
    quick = predict(minimax, half, RATES, Drive(1e15, 0.0))
    assert quick.decode == pytest.approx(predict(minimax, whole(minimax), RATES, DRIVE).decode)


def test_reads_wait_for_the_drive_to_answer(minimax: Footprint) -> None:
    half = with_share(minimax, 0.5)
    prompt, late = (predict(minimax, half, RATES, Drive(1e6, latency)) for latency in (0.0, 0.5))
    assert 1 / late.decode - 1 / prompt.decode == pytest.approx(62 * 0.5, rel=0.1)


def test_with_too_little(minimax: Footprint) -> None:
    least = divided(minimax, 1, 4096)[1].needed
    assert divided(minimax, least, 4096)[1].runs
    none = divided(minimax, least - 1, 4096)[1]
    assert not none.runs
    assert none.needed == least
    assert divided(minimax, 1, 4096)[1].kept == 0


def test_more_context_leaves_fewer_experts(minimax: Footprint) -> None:
    short, long = (divided(minimax, 32 * 10**9, ctx)[1] for ctx in (4096, 32_768))
    assert short.left - long.left == minimax.cache_bytes(32_768) - minimax.cache_bytes(4096)
    assert divided(minimax, 12 * 10**9, None)[0] == 8192  # twice that would be more than experts get


def test_small_matrices_cost_their_call(minimax: Footprint) -> None:
    parts = whole(minimax)
    slower = replace(RATES, launch=1e-5)
    more = 1 / predict(minimax, parts, slower, DRIVE).decode - 1 / predict(minimax, parts, RATES, DRIVE).decode
    assert more == pytest.approx(fit.CALLS * 1e-5 * (62 * (5 + 1) + 1))  # q k v o router, experts; and the head


def test_attention_to_the_prompt(minimax: Footprint) -> None:
    parts, usual = whole(minimax), predict(minimax, whole(minimax), RATES, DRIVE)
    slower = predict(minimax, parts, replace(RATES, cache=1e9, attention=1e10), DRIVE)
    assert 1 / slower.decode - 1 / usual.decode == pytest.approx(62 * 2 * 8 * 128 * 2 * 1000 / 1e9)
    assert slower.first - usual.first == pytest.approx(62 * 2 * 48 * 128 * 1000 * 500 / 1e10)
    heavier = predict(minimax, parts, replace(RATES, cache=1e12, attention=1e9), DRIVE)
    assert 1 / heavier.decode - 1 / usual.decode == pytest.approx(62 * 2 * 48 * 128 * 1000 / 1e9)


def test_rates_lie_between_those_measured() -> None:
    rate = Rate(1.0, (10.0, 20.0, 40.0, 80.0, 160.0))
    assert [rate.products(n) for n in (0.5, 1, 2, 64, 1000)] == pytest.approx([10, 10, 15, 80, 160])
