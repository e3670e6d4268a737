"""How fast a model reads a prompt and writes an answer, in llama-bench's terms: pp512, tg128, @ d8192."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from time import perf_counter

import numpy as np

from cpu_runtime.engine import Engine
from cpu_runtime.experts.streamed import Statistics, StreamedExperts
from cpu_runtime.footprint import Footprint
from cpu_runtime.session import Session


@dataclass(frozen=True)
class Workload:
    """Read `prompt` tokens, or generate `generated`, after `depth` tokens that are there already."""

    prompt: int
    generated: int
    depth: int

    def __str__(self) -> str:
        name = f"pp{self.prompt}" if self.prompt else f"tg{self.generated}"
        return f"{name} @ d{self.depth}" if self.depth else name

    @property
    def tokens(self) -> int:
        """What is timed."""
        return self.prompt or self.generated


@dataclass(frozen=True)
class Speed:
    """Tokens a second of each repetition; where experts are streamed, the share that memory held and bytes read."""

    test: Workload
    rates: tuple[float, ...]
    hit_rate: float | None = None
    disk_bytes_per_s: float | None = None

    @property
    def mean(self) -> float:
        """Tokens a second."""
        return mean(self.rates)

    @property
    def deviation(self) -> float:
        """Standard deviation between repetitions; 0 for a single one."""
        return stdev(self.rates) if len(self.rates) > 1 else 0.0

    def bytes_read(self, footprint: Footprint) -> float | None:
        """Bytes of weights a second that generating tokens one by one takes; None for a prompt."""
        return None if self.test.prompt else self.mean * (footprint.always_bytes + footprint.routed_bytes)

    def products(self, footprint: Footprint) -> float | None:
        """Products of a weight and an activation a second that reading a prompt takes; None for generation."""
        if not self.test.prompt:
            return None
        return self.mean * (footprint.products + footprint.head.weights / self.test.prompt)


def mean_of(rounds: Sequence[Speed]) -> Speed:
    """One test's rounds, each measured on its own, as if in one."""
    hits = [r.hit_rate for r in rounds if r.hit_rate is not None]
    reads = [r.disk_bytes_per_s for r in rounds if r.disk_bytes_per_s is not None]
    rates = tuple(rate for r in rounds for rate in r.rates)
    return Speed(rounds[0].test, rates, mean(hits) if hits else None, mean(reads) if reads else None)


def workloads(prompt: list[int], generated: list[int], depth: list[int]) -> Iterator[Workload]:
    """All that the lists ask for; 0 leaves a test out."""
    for d in depth:
        yield from (Workload(p, 0, d) for p in prompt if p)
        yield from (Workload(0, n, d) for n in generated if n)


def run(engine: Engine, test: Workload, repetitions: int, *, warm: bool = True) -> Speed:
    """Time a test on random tokens; what is not of it - depth, and with `warm` a first round - is not timed.

    The engine's context must hold the depth and the tokens.
    """
    rng = np.random.default_rng(0)
    session = engine.session()
    _read(session, _tokens(engine, rng, test.depth))
    session.mark(test.depth)
    before = list(session.tokens)
    rates: list[float] = []
    seconds = 0.0
    streamed = engine.store if isinstance(engine.store, StreamedExperts) else None
    for turn in range(repetitions + warm):
        session.sync([*before, 0])  # back to the mark
        ids = _tokens(engine, rng, test.tokens)
        if streamed and turn == int(warm):
            streamed.statistics = Statistics()
        start = perf_counter()
        if test.prompt:
            session.logits(_read(session, ids))
        else:
            for token in ids:
                session.logits(session.advance([token]))
        took = perf_counter() - start
        if turn or not warm:
            rates.append(test.tokens / took)
            seconds += took
    if streamed is None:
        return Speed(test, tuple(rates))
    counted = streamed.statistics
    return Speed(test, tuple(rates), counted.hit_rate, counted.bytes_read / seconds)


def _tokens(engine: Engine, rng: np.random.Generator, count: int) -> list[int]:
    found: list[int] = rng.integers(0, engine.vocab_size, count).tolist()
    return found


def _read(session: Session, ids: list[int]) -> np.ndarray:
    """The last chunk's output."""
    hidden = np.empty((0, 0), np.float32)
    chunk = session.engine.chunk
    for start in range(0, len(ids), chunk):
        hidden = session.advance(ids[start : start + chunk])
    return hidden
