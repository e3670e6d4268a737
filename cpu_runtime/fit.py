"""Whether a model runs on a machine, and how fast: arithmetic on its footprint and the machine's rates.

What is assumed rather than measured stands in the constants here and in `Prediction.hit_rate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cpu_runtime.footprint import Footprint, Work
from cpu_runtime.roofs import Rates
from cpu_runtime.session import PREFILL_CHUNK

PROMPT = 1000  # tokens, before the first one of the answer
OVERHEAD = 400 << 20  # bytes of Python, compiled kernels and activations; assumed
CALLS = 2  # kernels called for each product of a matrix: norms, rotations and sums between them; assumed


@dataclass(frozen=True)
class Split:
    """How `memory` bytes are shared out: `dense`, `cache` and `overhead` first, the rest for experts."""

    memory: int
    dense: int
    cache: int
    overhead: int
    experts: int  # bytes of them that are kept in memory
    all_experts: int
    least: int  # bytes of experts that one layer needs at once

    @property
    def needed(self) -> int:
        """What the model can't run without."""
        return self.dense + self.cache + self.overhead + self.least

    @property
    def runs(self) -> bool:
        """Whether it runs at all."""
        return self.needed <= self.memory

    @property
    def whole(self) -> bool:
        """Whether every expert stays in memory."""
        return self.experts == self.all_experts

    @property
    def share(self) -> float:
        """Of the experts that stay in memory: the rate of hits where routing is uniform."""
        return self.experts / self.all_experts if self.all_experts else 1.0


@dataclass(frozen=True)
class Prediction:
    """`decode` tokens a second with little in the cache; `first` seconds to the first token after 1,000."""

    decode: float
    first: float
    hit_rate: float  # assumed: the share of experts in memory, as if routing were uniform
    missed_bytes: float  # a token reads from disk


def split(f: Footprint, memory: int, ctx: int) -> Split:
    """How much of each kind is in memory."""
    cache, least = f.cache_bytes(ctx), f.active * max(f.records, default=0)
    room = memory - f.dense_bytes - cache - OVERHEAD
    return Split(memory, f.dense_bytes, cache, OVERHEAD, max(0, min(room, f.expert_bytes)), f.expert_bytes, least)


def predict(f: Footprint, s: Split, rates: Rates, disk: float) -> Prediction:
    """Speed on a machine with these rates, whose disk gives `disk` bytes a second.

    A token takes what its weights take from memory, and then what the missing experts take from disk: nothing is read
    ahead. Reading a prompt, each expert that a chunk activates is read once. Attention to earlier tokens is left out.
    """
    missed = (1 - s.share) * f.routed_bytes
    layers = len(f.records)
    decode = (
        _one(rates, [*f.always, f.head])
        + layers * f.active * _one(rates, f.expert)
        + CALLS * rates.launch * (sum(w.matrices for w in f.always) + 1 + layers * sum(w.matrices for w in f.expert))
        + missed / disk
    )
    first = _one(rates, [f.head])
    for start in range(0, PROMPT, PREFILL_CHUNK):
        tokens = min(PREFILL_CHUNK, PROMPT - start)
        used = f.experts * (1 - (1 - f.active / f.experts) ** tokens) if f.experts else 0.0  # of a layer, expected
        first += _many(rates, f.always, tokens)
        first += layers * used * _many(rates, f.expert, tokens * f.active / used if used else 0)
        first += used * (1 - s.share) * sum(f.records) / disk
    return Prediction(1 / decode, first, s.share, missed)


def _one(rates: Rates, works: Iterable[Work]) -> float:
    """Seconds that matrices take for one token."""
    return sum(work.bytes / rates.formats[work.format].one for work in works)


def _many(rates: Rates, works: Iterable[Work], tokens: float) -> float:
    """Seconds for many: the matrix read for the first of them, and each product at the rate of many.

    For the first token, reading and multiplying overlap: the slower counts.
    """
    return sum(
        max(work.bytes / rates.formats[work.format].one, work.weights / rates.formats[work.format].many)
        + max(tokens - 1, 0) * work.weights / rates.formats[work.format].many
        for work in works
    )
