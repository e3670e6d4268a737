"""Fewer threads while other programs want the cores, by a clock and a source that the tests turn themselves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cpu_runtime import Engine
from cpu_runtime.crowd import Crowd, RunDelay, crowd
from quant.jit import set_threads, threads
from tests.conftest import DEMO, Quantized


class Cores:
    """A machine with so many cores, of which other programs take `busy`; a token takes a tenth of a second."""

    def __init__(self, most: int) -> None:
        self.busy, self.now, self.waited = 0, 0.0, 0.0
        self.crowd = Crowd(most, lambda: self.waited, lambda: self.now)

    def tokens(self, count: int) -> list[int]:
        """Generate some; the threads of each."""
        found = []
        for _ in range(count):
            found.append(self.crowd.threads(1))
            self.now += 0.1
            self.waited += 0.1 * 0.7 * max(0, found[-1] + self.busy - self.crowd.most)
        return found


def test_alone_all_threads_compute() -> None:
    assert set(Cores(2).tokens(500)) == {2}


def test_threads_that_wait_are_left_out_and_tried_again_seldom() -> None:
    cores = Cores(2)
    cores.busy = 1
    counts = cores.tokens(1000)
    assert counts[:3] == [2, 2, 2] and counts[3] == 1, "seen after a quarter of a second"
    assert counts.count(2) <= 40, "ever more seldom"
    assert 2 in counts[600:], "but never given up"


def test_all_threads_come_back() -> None:
    cores = Cores(8)
    cores.busy = 3
    assert cores.tokens(200)[-1] in (5, 6)
    cores.busy = 0
    assert 8 in cores.tokens(250)
    assert set(cores.tokens(100)) == {8}


def test_one_thread_is_left_however_crowded_it_is() -> None:
    cores = Cores(2)
    cores.busy = 50
    assert set(cores.tokens(500)[3:]) == {1}


def test_a_prompt_takes_all_threads_and_its_waiting_does_not_count() -> None:
    cores = Cores(2)
    for _ in range(50):
        assert cores.crowd.threads(256) == 2
        cores.now += 1
        cores.waited += 1
        assert set(cores.tokens(4)) == {2}


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux says how long threads wait")
def test_waiting_is_read_from_the_system_and_only_grows() -> None:
    delay = RunDelay()
    first = delay()
    sum(range(100_000))
    assert 0 <= first <= delay() < 60
    found = crowd(2)
    assert found is not None and found.most == 2


def test_one_thread_needs_no_watching() -> None:
    assert crowd(1) is None


def test_a_number_that_was_asked_for_is_kept(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with Engine.open(quantized(DEMO, "int4"), threads=2) as engine:
            assert engine.crowd is None
        with Engine.open(quantized(DEMO, "int4")) as engine:
            if sys.platform == "linux" and engine.crowd is not None:
                monkeypatch.setattr(engine.crowd, "_count", 1)
            session = engine.session()
            session.advance([1, 2])
            session.advance([3])
            assert threads() == 1 or engine.crowd is None
    finally:
        set_threads(64)
