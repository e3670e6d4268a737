from __future__ import annotations

import pytest

from cpu_runtime import Engine, footprint, measure
from cpu_runtime.measure import Speed, Workload
from tests.conftest import DEMO, Quantized


def test_tests_are_named_as_llama_bench_names_them() -> None:
    found = [str(test) for test in measure.workloads([512, 0], [128], [0, 8192])]
    assert found == ["pp512", "tg128", "pp512 @ d8192", "tg128 @ d8192"]
    assert list(measure.workloads([0], [0], [0])) == []


@pytest.mark.parametrize("test", [Workload(300, 0, 0), Workload(0, 3, 5), Workload(4, 0, 270)], ids=str)
def test_each_round_begins_at_the_depth(test: Workload, quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    from cpu_runtime.session import Session

    calls: list[tuple[int, int]] = []
    real = Session.advance

    def advance(session: Session, ids: list[int]) -> object:
        calls.append((len(session.tokens), len(ids)))
        return real(session, ids)

    monkeypatch.setattr(Session, "advance", advance)
    with Engine.open(quantized(DEMO, "int4"), context=test.depth + test.tokens) as engine:
        speed = measure.run(engine, test, 2)
    assert len(speed.rates) == 2
    assert min(speed.rates) > 0
    timed = [call for call in calls if call[0] >= test.depth]
    assert sum(count for _, count in timed) == 3 * test.tokens, "a warm round and two that count"
    assert sum(at == test.depth for at, _ in timed) == 3
    assert sum(count for _, count in calls) - 3 * test.tokens == test.depth
    assert all(count == 1 for _, count in timed) or test.prompt


def test_what_a_rate_means(quantized: Quantized) -> None:
    with Engine.open(quantized(DEMO, "int4")) as engine:
        weighs = footprint.of_model(engine.model)
    wrote, read = Speed(Workload(0, 8, 0), (10.0, 14.0)), Speed(Workload(100, 0, 0), (10.0,))
    assert (wrote.mean, round(wrote.deviation, 3), read.deviation) == (12.0, 2.828, 0.0)
    assert wrote.bytes_read(weighs) == 12 * (weighs.always_bytes + weighs.routed_bytes)
    assert wrote.products(weighs) is None
    assert read.bytes_read(weighs) is None
    assert read.products(weighs) == pytest.approx(10 * (weighs.products + weighs.head.weights / 100))
