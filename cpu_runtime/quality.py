"""How well a model predicts a text, and how far it is from another: perplexity and KL divergence, with error bars.

A text is cut into windows that are read independently of one another. Of each, the tokens of the second half are
scored, the first of that half excepted: they all have at least half a window before them. So does llama-perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpu_runtime.engine import Engine
from cpu_runtime.kernels.likelihood import divergence, surprise
from quant.errors import CheckpointError, UsageError

LEAST_WINDOW = 16  # tokens
_LOGITS_BYTES = 64 << 20  # of one model, at a time: a row of logits is as long as the vocabulary


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, tokens taken as independent of one another."""

    value: float
    error: float


def windows(ids: Sequence[int], size: int, opening: Sequence[int] = ()) -> list[list[int]]:
    """Consecutive windows of `size` tokens, each behind `opening`, which is part of its size; a rest is left out.

    Raises UsageError where there is not one.
    """
    body = size - len(opening)
    if size < LEAST_WINDOW or body < 1:
        raise UsageError(f"--ctx {size} is too short: a window takes at least {LEAST_WINDOW} tokens")
    found = [[*opening, *ids[at : at + body]] for at in range(0, len(ids) - body + 1, body)]
    if not found:
        raise UsageError(
            f"the text is {len(ids)} tokens, less than one window of {body}",
            hint=f"give a longer text, or --ctx {len(ids) + len(opening)}"
            if len(ids) + len(opening) >= LEAST_WINDOW
            else "give a longer text",
        )
    return found


def scored(size: int) -> int:
    """How many tokens of a window count."""
    return size - size // 2 - 1


def surprises(engine: Engine, window: Sequence[int]) -> np.ndarray:
    """-log of the probability of each scored token, in nats: -> [scored] f64.

    Raises CheckpointError where logits are not finite, UsageError for ids that are none.
    """
    targets, hidden = _targets(window), _second_half(engine, window)
    out = np.empty(len(targets))
    for rows in _pieces(len(targets), engine.vocab_size):
        surprise(engine.decoder.logits(hidden[rows]), targets[rows], out[rows])
    _check(engine, out)
    return out


def comparison(engine: Engine, base: Engine, window: Sequence[int]) -> np.ndarray:
    """The base's distribution against the model's at each scored token: -> [scored, 4] f64, see `divergence`.

    Both read the window, and only the last blocks' outputs are kept of it; logits are made for a few tokens at a time.
    Raises as `surprises` does.
    """
    targets = _targets(window)
    first, second = _second_half(base, window), _second_half(engine, window)
    out = np.empty((len(targets), 4))
    for rows in _pieces(len(targets), engine.vocab_size):
        expected, found = base.decoder.logits(first[rows]), engine.decoder.logits(second[rows])
        divergence(expected, found, targets[rows], out[rows])
    _check(base, out[:, 1])
    _check(engine, out)
    return out


def _targets(window: Sequence[int]) -> np.ndarray:
    return np.asarray(window[len(window) // 2 + 1 :], np.int64)


def _second_half(engine: Engine, window: Sequence[int]) -> np.ndarray:
    """The last block's output at the tokens before the scored ones: -> [scored, D] f32."""
    engine.check(window)
    session, kept = engine.session(), []
    first, last = len(window) // 2, len(window) - 1
    for start in range(0, last, engine.chunk):
        hidden = session.advance(window[start : min(start + engine.chunk, last)])
        kept.append(hidden[max(first - start, 0) :].copy())  # a single token's is valid until the next
    return np.concatenate(kept)


def _pieces(count: int, vocab: int) -> Iterator[slice]:
    step = max(1, _LOGITS_BYTES // (4 * vocab))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _check(engine: Engine, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise CheckpointError(
            f"{engine.name}: its logits are not all finite", hint=f"moe show --verify {engine.name} checks its files"
        )


def mean(values: np.ndarray) -> Estimate:
    """Of at least one value."""
    count = values.size
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf)


def quantile(values: np.ndarray, share: float) -> Estimate:
    """The value that `share` of them do not exceed; its error is half the spread of the ranks that chance gives it."""
    off = math.sqrt(share * (1 - share) / values.size)
    low, at, high = np.quantile(values, [max(share - off, 0.0), share, min(share + off, 1.0)])
    return Estimate(float(at), float(high - low) / 2)


def perplexity(nats: np.ndarray) -> Estimate:
    """e to the mean of surprises; of the differences of two models' surprises, the ratio of their perplexities."""
    exponent = mean(nats)
    value = math.exp(min(exponent.value, 700.0))  # e**710 is infinite
    return Estimate(value, value * exponent.error)
