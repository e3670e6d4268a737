"""From logits to a token."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quant.errors import MoeError, UsageError

_BLOCK = 256  # logits
_COLDEST = 1e-30  # temperature that a float32 can be divided by
_SLACK = 1e-3  # of a logit: a floor is not to be above what it stands for


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens; temperature 0 takes the likeliest, and the same seed draws the same text.

    top_k 0, top_p 1 and min_p 0 switch those filters off. The penalties look at the last `repeat_last_n` tokens.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 100)
        _within("top_k", self.top_k, 0, 1 << 31)
        _within("top_p", self.top_p, 0, 1)
        _within("min_p", self.min_p, 0, 1)
        _within("repeat_penalty", self.repeat_penalty, 1e-3, 100)
        _within("repeat_last_n", self.repeat_last_n, 0, 1 << 31)
        _within("presence_penalty", self.presence_penalty, -100, 100)
        _within("frequency_penalty", self.frequency_penalty, -100, 100)
        _within("seed", self.seed or 0, 0, (1 << 64) - 1)
        _within("max_tokens", 1 if self.max_tokens is None else self.max_tokens, 0, 1 << 31)
        if self.top_p == 0:
            raise UsageError("top_p is 0; it must be above 0 (use temperature 0 for the likeliest token)")

    def replace(self, **changes: Any) -> SamplingParams:
        """The same with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def from_generation_config(cls, config: dict[str, Any]) -> SamplingParams:
        """What a model's generation_config.json advises; what it leaves out, or is no number, keeps its default."""
        if config.get("do_sample") is False:
            return cls(temperature=0.0)
        fields = {"temperature": float, "top_k": int, "top_p": float, "min_p": float}
        given = {key: kind(config[key]) for key, kind in fields.items() if isinstance(config.get(key), int | float)}
        if isinstance(config.get("repetition_penalty"), int | float):
            given["repeat_penalty"] = float(config["repetition_penalty"])
        return cls(**given)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}; it must be between {low} and {high}")


class Sampler:
    """Chooses one token after another; `seed` is the one in use, drawn afresh where none was given."""

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        self._params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def next(self, logits: np.ndarray, history: Sequence[int]) -> int:
        """The next token; penalties, temperature, top-k, top-p and min-p are applied in this order.

        Shapes: logits [V] f32. `history` is prompt and answer so far. Raises MoeError where no logit is finite.
        """
        p = self._params
        logits = self._penalised(logits, history)
        best = int(logits.argmax())  # the first of equals; a NaN counts as the largest
        if not np.isfinite(logits[best]):
            raise MoeError("the model computed a value that is not a number", hint="check it with: moe show --verify")
        if p.temperature == 0 or p.top_k == 1:
            return best
        ids, probability = self.candidates(logits)
        below = np.cumsum(probability)
        return int(ids[np.searchsorted(below, self._random.random() * below[-1], side="right")])

    def _penalised(self, logits: np.ndarray, history: Sequence[int]) -> np.ndarray:
        p = self._params
        if p.repeat_penalty == 1 and p.presence_penalty == 0 and p.frequency_penalty == 0:
            return logits
        recent = np.asarray(history[-p.repeat_last_n :] if p.repeat_last_n else (), np.int64)
        ids, counts = np.unique(recent, return_counts=True)
        logits = logits.copy()
        seen = logits[ids]
        seen = np.where(seen > 0, seen / p.repeat_penalty, seen * p.repeat_penalty)
        logits[ids] = seen - p.presence_penalty - p.frequency_penalty * counts
        return logits

    def candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, probabilities) that survive the filters, likeliest first, lower ids first among equals.

        Shapes: logits [V] f32 -> [N] i64, [N] f64 that sum to 1.
        """
        p, best = self._params, float(logits.max())
        with np.errstate(over="ignore"):  # a temperature near 0: all but the likeliest fall to 0
            # Sorting a large vocabulary takes as long as a small model's token; few of it can survive.
            if 0 < p.top_k < logits.size:
                total, floor = None, _reached_by(logits, p.top_k)
            else:
                total = self._total(logits, best) if p.top_p < 1 else None
                # Ids below this share of the likeliest's probability have less than 1 - top_p together.
                share = max(p.min_p, 0.0 if total is None else (1 - p.top_p) * total / logits.size)
                floor = best + p.temperature * np.log(share) - _SLACK if share > 0 else -np.inf
            ids = np.flatnonzero(logits >= floor)
            ids = ids[np.lexsort((ids, -logits[ids]))][: p.top_k or None]
            probability = np.exp((logits[ids].astype(np.float64) - best) / p.temperature)
        probability /= probability.sum() if total is None else total
        before = np.cumsum(probability) - probability
        keep = (before < p.top_p) & (probability >= p.min_p * probability[0])
        return ids[keep], probability[keep] / probability[keep].sum()

    def _total(self, logits: np.ndarray, best: float) -> np.float64:
        """The sum of all tokens' probabilities, where that of the likeliest is 1."""
        coldness = np.float32(1 / max(self._params.temperature, _COLDEST))
        sum_: np.float64 = np.exp((logits - np.float32(best)) * coldness).sum(dtype=np.float64)
        return sum_


def _reached_by(logits: np.ndarray, count: int) -> float:
    """A number that at least `count` logits reach, and few others: the least of as many blocks' largest."""
    blocks = logits.size // _BLOCK
    among = logits[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1) if blocks >= count else logits
    return float(np.partition(among, among.size - count)[among.size - count])
