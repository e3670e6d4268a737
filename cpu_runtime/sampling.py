"""From logits to a token."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quant.errors import MoeError, UsageError


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
        ids, probability = self._candidates(logits)
        return int(
            ids[np.searchsorted(np.cumsum(probability), self._random.random() * probability.sum(), side="right")]
        )

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

    def _candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, probabilities) that survive the filters, likeliest first, lower ids first among equals."""
        p = self._params
        ids = np.arange(logits.size)
        if 0 < p.top_k < logits.size:
            ids = np.argpartition(-logits, p.top_k - 1)[: p.top_k]
        elif p.min_p > 0:  # cheap, and leaves few to sort: what is below the floor can't survive
            ids = np.flatnonzero(logits >= logits.max() + p.temperature * np.log(p.min_p))
        ids = ids[np.lexsort((ids, -logits[ids]))]
        with np.errstate(over="ignore"):  # a temperature near 0: all but the likeliest fall to 0
            probability = np.exp((logits[ids].astype(np.float64) - logits[ids[0]]) / p.temperature)
        probability /= probability.sum()
        before = np.cumsum(probability) - probability
        keep = (before < p.top_p) & (probability >= p.min_p * probability[0])
        return ids[keep], probability[keep]
