"""Whether a model runs on a machine, and how fast: arithmetic on its footprint and the machine's rates.

Memory is divided by the engine's own rule. What is assumed rather than measured stands in the constants here and in
`Prediction.hit_rate`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cpu_runtime.drive import Drive
from cpu_runtime.experts.streamed import GUESSES
from cpu_runtime.footprint import Footprint, Work
from cpu_runtime.memory import MIB, Division, Sizes, share_out, with_window
from cpu_runtime.rates import Rates

PROMPT = 1000  # tokens, before the first one of the answer
PROCESS = 110 * MIB  # Python, NumPy and Numba, before a model is opened; assumed, as measured in LOG.md
CALLS = 3  # kernels called for each product of a matrix: norms, rotations and sums between them; assumed
PASSES = 2  # over a prompt's arrays in each layer, beside products: norms, rotations, sums, written and read; assumed
STATE = 3  # products of a number of a recurrent state and each token: decayed, corrected, read
FORESEEN = 0.87  # of the surest guesses at the next layer's experts, those that are right; as in the demo model


@dataclass(frozen=True)
class Prediction:
    """`decode` tokens a second after a prompt of 1,000; `first` seconds from the prompt to the first token."""

    decode: float
    first: float
    hit_rate: float  # assumed
    missed_bytes: float  # a token reads from disk


def divided(f: Footprint, total: int, context: int | None, tokenizer: int = 0) -> tuple[int, Division]:
    """(the window, how an engine divides `total` bytes for it); None narrows the default window as an engine does.

    `tokenizer` is the size of its file.
    """

    def division_of(window: int) -> Division:
        sizes = Sizes(
            dense=f.dense_bytes,
            caches=f.cache.most_bytes(window, f.number_bytes),
            tokenizer=tokenizer,
            token=f.token_bytes,
            experts=f.expert_bytes,
            slot=max(f.records, default=1),
            active=f.active if f.records else 0,
        )
        return share_out(sizes, total, PROCESS, window)

    return with_window(division_of, context, f.context)


def uniform_hits(d: Division) -> float:
    """The share of experts in memory, which is that of hits where all are equally likely."""
    return d.kept / d.experts if d.experts else 1.0


def repeating_hits(d: Division) -> float:
    """That of hits where half of a token's experts are the last token's, and the others are equally likely."""
    return 0.5 + 0.5 * uniform_hits(d)


def predict(f: Footprint, d: Division, rates: Rates, drive: Drive, hit_rate: float | None = None) -> Prediction:
    """Speed on a machine with these rates, where memory is so divided and this share of experts is found in it.

    `hit_rate` is the uniform one if None. A prompt finds what uniform routing does: it activates nearly all experts.
    """
    held = uniform_hits(d)
    hits = held if hit_rate is None else hit_rate
    first = _launches(rates, [f.head]) + _one(rates, [f.head])
    for start in range(0, PROMPT, d.chunk):
        first += _chunk(f, rates, drive, start, min(d.chunk, PROMPT - start), held)
    return Prediction(1 / _token(f, rates, drive, hits), first, hits, (1 - hits) * f.routed_bytes)


def _token(f: Footprint, rates: Rates, drive: Drive, hits: float) -> float:
    """Seconds of one token after the prompt.

    Misses of a layer are read while its hits are computed, and each is computed as it comes: the last one alone. While
    the next layer's attention is computed, what is guessed of its experts is read, and nothing else.
    """
    dense = _one(rates, f.always) + _launches(rates, f.always) + _attention(f, rates)
    head = _one(rates, [f.head]) + _launches(rates, [f.head])
    layers = len(f.records)
    if not layers:
        return dense + head
    expert = sum(work.bytes / rates.experts[work.format].one for work in f.expert)
    compute = f.active * expert + CALLS * rates.launch
    missed = (1 - hits) * f.active
    if not missed:
        return dense + layers * compute + head
    size, between = sum(f.records) / layers, dense / layers
    guessed = min(FORESEEN * min(GUESSES, missed), max(0.0, between - drive.latency) * drive.rate / size)
    reading = drive.seconds((missed - guessed) * size) + expert
    return dense + layers * max(compute, reading) + head


def _chunk(f: Footprint, rates: Rates, drive: Drive, start: int, tokens: int, held: float) -> float:
    """Seconds of a prompt's tokens after `start` others: reads run beside products, the next layer's being guessed."""
    layers = len(f.records)
    used = f.experts * (1 - (1 - f.active / f.experts) ** tokens) if f.experts else 0.0  # of a layer, expected
    pairs = tokens * (start + tokens / 2)
    compute = sum(tokens * work.weights / rates.matrices[work.format].products(tokens) for work in f.always)
    compute += (f.cache.products * pairs + tokens * STATE * f.cache.fixed_bytes / 4) / rates.attention
    if used:
        each = tokens * f.active / used
        rate = {work.format: rates.experts[work.format].products(each) for work in f.expert}
        compute += layers * sum(tokens * f.active * work.weights / rate[work.format] for work in f.expert)
        compute += layers * tokens * PASSES * f.token_bytes / rates.read
    return max(compute, (1 - held) * used * sum(f.records) / drive.rate)


def _one(rates: Rates, works: Iterable[Work]) -> float:
    """Seconds that matrices take for one token."""
    return sum(work.bytes / rates.matrices[work.format].one for work in works)


def _launches(rates: Rates, works: Iterable[Work]) -> float:
    return CALLS * rates.launch * sum(work.matrices for work in works)


def _attention(f: Footprint, rates: Rates) -> float:
    """Seconds of one token's attention to the prompt, by memory or by arithmetic, and of states that it changes."""
    remembered = PROMPT * f.cache.numbers * f.number_bytes
    by_memory = remembered / rates.cache
    by_products = PROMPT * f.cache.absorbed / rates.attention
    return max(by_memory, by_products) + 2 * f.cache.fixed_bytes / rates.read
