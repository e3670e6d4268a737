"""What our layers make of this machine, measured in seconds: what a model's speed is predicted from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from math import log
from typing import Any

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.experts.store import Group
from cpu_runtime.kernels.attention import attend
from cpu_runtime.layers.linear import Activations, Linear
from cpu_runtime.layers.moe import MoE
from cpu_runtime.roofs import BEYOND_CACHES, filled, roofs, seconds
from quant.formats import FORMATS, Format
from quant.layout import RecordPart

HIDDEN, WIDTH = 4096, 1024  # of the matrices and experts that are timed: those of large models, roughly
COUNTS = (1, 4, 16, 64, 256)  # tokens that a matrix serves at once
_PRODUCTS = 1 << 31  # timed at most: fewer weights where they serve many tokens
_ACTIVE = 8  # experts of a token
_HEADS, _SHARE, _HEAD_SIZE, _DEEP, _DEPTH = 8, 4, 128, 8192, 1024  # of attention


@dataclass(frozen=True)
class Rate:
    """A format's rates: bytes a second for one token, and products a second where 1, 4, 16, 64 and 256 share them."""

    one: float
    many: tuple[float, ...]

    def products(self, tokens: float) -> float:
        """Products a second where so many tokens share a matrix, between those measured."""
        return float(np.interp(log(max(tokens, 1.0)), np.log(COUNTS), self.many))


@dataclass(frozen=True)
class Rates:
    """`read` bytes a second from memory, `dot` int8 products a second in the cache: the roofs of these threads.

    Beside them what layers do: matrices by format; experts by format, with all that belongs to them; `cache`, bytes of
    keys and values a second for one token; `attention`, products a second for many; and `launch`, the seconds that a
    matrix takes however small it is.
    """

    threads: int
    read: float
    dot: float
    matrices: dict[str, Rate]
    experts: dict[str, Rate]
    cache: float
    attention: float
    launch: float


def rates(threads: int, formats: tuple[str, ...] = tuple(FORMATS)) -> Rates:
    """Everything but the drive, on `threads` threads, which the caller has set."""
    matrices = {name: _matrix_rate(FORMATS[name]) for name in formats}
    experts = {name: _expert_rate(FORMATS[name]) for name in formats}
    small, x = Linear(filled(FORMATS["q8"], 64, 64)), np.ones((1, 64), np.float32)
    launch = seconds(lambda: small(Activations(x)), 201)
    return Rates(threads, *roofs(), matrices, experts, *_attention_rates(), launch)


def _matrix_rate(form: Format) -> Rate:
    """A linear layer's."""

    def products(tokens: int) -> float:
        matrix = filled(form, 16 * max(1, round(_weights(form, tokens) / HIDDEN / 16)), HIDDEN)
        linear, x = Linear(matrix), np.full((tokens, HIDDEN), 0.5, np.float32)
        return tokens * matrix.rows * HIDDEN / seconds(lambda: linear(Activations(x)))

    many = tuple(map(products, COUNTS))
    return Rate(many[0] * form.bits_per_weight(16, HIDDEN) / 8, many)


def _expert_rate(form: Format) -> Rate:
    """That of a layer's experts: activating, quantizing and adding up included."""
    record, parts = _record(form)
    weights = 3 * HIDDEN * WIDTH

    def work(count: int, experts: np.ndarray) -> Callable[[], np.ndarray]:
        """One call for each row of experts [.., T, A]; of `count` that there are."""
        moe = MoE(0, _Turns(cycle(experts), experts.shape[2]), _Held(np.tile(record, (count, 1)), parts))
        x = np.full((experts.shape[1], HIDDEN), 0.5, np.float32)
        return lambda: moe(Activations(x))

    def one() -> float:
        calls = max(2, round(_weights(form, 1) / weights / _ACTIVE))
        experts = np.arange(calls * _ACTIVE, dtype=np.int32).reshape(calls, 1, _ACTIVE)
        return _ACTIVE * record.nbytes / seconds(work(experts.size, experts), 2 * calls)

    def many(tokens: int) -> float:
        count = max(1, round(_weights(form, tokens) / weights))
        experts = np.repeat(np.arange(count, dtype=np.int32), tokens).reshape(1, -1, 1)
        return experts.size * weights / seconds(work(count, experts))

    return Rate(one(), tuple(map(many, COUNTS)))


@dataclass(frozen=True)
class _Turns:
    """A router that picks what comes next."""

    experts: Iterator[np.ndarray]
    active: int

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        chosen = next(self.experts)
        return chosen, np.ones(chosen.shape, np.float32)


@dataclass(frozen=True)
class _Held:
    """A store of experts that are all in memory; of its layer it knows the parts alone."""

    held: np.ndarray
    parts: dict[str, RecordPart]

    def records(self, layer: int) -> Any:
        return self

    def fetch(
        self, layer: int, experts: np.ndarray, uses: np.ndarray | None = None, tokens: int = 1
    ) -> Iterator[Group]:
        return iter((Group(self.held, np.arange(experts.size, dtype=np.int32), experts),))

    def expect(self, layer: int, experts: np.ndarray, tokens: int) -> None: ...

    def close(self) -> None: ...


def _weights(form: Format, tokens: int) -> float:
    return min(8 * BEYOND_CACHES / form.bits_per_weight(16, HIDDEN), _PRODUCTS / tokens)


def _record(form: Format) -> tuple[np.ndarray, dict[str, RecordPart]]:
    """An expert's record, and what is where in it; every byte as in `filled`."""
    parts, at = {}, 0
    for name, rows, cols in (("gate", WIDTH, HIDDEN), ("up", WIDTH, HIDDEN), ("down", HIDDEN, WIDTH)):
        parts[name] = RecordPart(form, rows, cols, at, form.matrix_bytes(rows, cols))
        at += parts[name].bytes
    return np.full(at, 17, np.uint8), parts


def _attention_rates() -> tuple[float, float]:
    """(bytes of keys and values a second for one token, products a second for 256), both kept in float16."""

    def took(tokens: int, depth: int) -> tuple[int, float]:
        cache = KVCache(_HEADS, _HEAD_SIZE, depth, np.dtype(np.float16))
        rows = np.full((depth, _HEADS, _HEAD_SIZE), 0.5, np.float32)
        cache.append(rows, rows)
        query = np.full((tokens, _HEADS * _SHARE, _HEAD_SIZE), 0.1, np.float32)
        keys, values, out = cache.keys.rows, cache.values.rows, np.empty_like(query)
        return cache.bytes, seconds(lambda: attend(query, keys, values, depth - tokens, np.float32(0.1), out))

    (size, one), (_, many) = took(1, _DEEP), took(COUNTS[-1], _DEPTH)
    pairs = COUNTS[-1] * (_DEPTH - COUNTS[-1] / 2)
    return size / one, 2 * _HEADS * _SHARE * _HEAD_SIZE * pairs / many
