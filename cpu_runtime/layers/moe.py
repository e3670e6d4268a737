"""Mixture-of-Experts feed-forward: a router, the experts it picks, and perhaps a shared one that always runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from cpu_runtime.experts.store import ExpertStore, Group
from cpu_runtime.kernels.experts import grouped_matmul, swiglu, weighted_sum
from cpu_runtime.kernels.router import sigmoid_top_k, softmax_top_k
from cpu_runtime.layers.linear import Activations, Linear, padded
from cpu_runtime.layers.networks import Networks
from quant.layout import RecordPart

_FIRST = np.zeros(1, np.int32)


class Router(Protocol):
    """Picks A experts for each token."""

    @property
    def active(self) -> int:
        """A."""
        ...

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """(experts [T, A] i32, weights [T, A] f32)."""
        ...


@dataclass(frozen=True)
class SoftmaxRouter:
    """Softmax over all experts, the A largest, renormalised to sum to 1 (Qwen3 MoE and its descendants)."""

    gate: Linear
    active: int

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, A] i32, weights [T, A] f32."""
        scores = self.gate(x)
        experts = np.empty((scores.shape[0], self.active), np.int32)
        weights = np.empty((scores.shape[0], self.active), np.float32)
        softmax_top_k(scores, self.active, experts, weights)
        return experts, weights


@dataclass(frozen=True)
class SigmoidRouter:
    """The A largest of sigmoid + bias, weighted by their sigmoids without the bias; DeepSeek-V3 and its descendants.

    Experts stand in `groups` equal runs, and only the `kept` best runs of a token are looked at. The weights sum to
    `factor`, short of the `eps` in their denominator.
    """

    gate: Linear
    bias: np.ndarray
    active: int
    groups: int = 1
    kept: int = 1
    eps: float = 0.0
    factor: float = 1.0

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, A] i32, weights [T, A] f32."""
        scores = self.gate(x)
        experts = np.empty((scores.shape[0], self.active), np.int32)
        weights = np.empty((scores.shape[0], self.active), np.float32)
        eps, factor = np.float32(self.eps), np.float32(self.factor)
        sigmoid_top_k(scores, self.bias, self.groups, self.kept, self.active, eps, factor, experts, weights)
        return experts, weights


@dataclass(frozen=True)
class MLP:
    """down(silu(gate x) * up x)."""

    gate: Linear
    up: Linear
    down: Linear

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        if x.x.shape[0] == 1:
            return self._one_token(x)
        hidden = self.gate(x)
        swiglu(hidden, self.up(x), hidden)
        return self.down(Activations(hidden))

    @cached_property
    def _network(self) -> Networks:
        matrices = (self.gate.matrix, self.up.matrix, self.down.matrix)
        return Networks.of([(m.format, m.rows, m.cols, 0) for m in matrices])

    def _one_token(self, x: Activations) -> np.ndarray:
        gate, up, down = (linear.matrix.tiles.reshape(1, -1) for linear in (self.gate, self.up, self.down))
        out = np.empty((1, self._network.width), np.float32)
        self._network.answer((gate, up, down), _FIRST, _FIRST, x, out)
        return out[:, : self.down.matrix.rows]


@dataclass(frozen=True)
class GatedMLP:
    """sigmoid(w . x) * mlp(x): a shared expert that each token can turn down (Qwen)."""

    mlp: MLP
    gate: Linear

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        openness = np.float32(1) / (np.float32(1) + np.exp(-self.gate(x)))
        return self.mlp(x) * openness


@dataclass(frozen=True)
class MoE:
    """sum over the picked experts of weight * expert(x), plus the shared expert where there is one."""

    layer: int
    router: Router
    store: ExpertStore
    shared: MLP | GatedMLP | None = None

    @property
    def active(self) -> int:
        """Experts that a token activates."""
        return self.router.active

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        experts, weights = self.router(x)
        out = routed(self.store, self.layer, x, experts, weights)
        if self.shared is not None:
            out += self.shared(x)
        return out


def routed(store: ExpertStore, layer: int, x: Activations, experts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of each token's experts; every active expert is fetched once and serves all its tokens.

    Shapes: experts [T, A] i32, weights [T, A] f32 -> [T, D] f32.
    """
    if experts.shape[0] == 1:
        return _one_token(store, layer, x, experts[0], weights)
    distinct, which = np.unique(experts, return_inverse=True)
    which = which.ravel()
    parts = store.records(layer).parts
    answers = np.empty((which.size, padded(parts["down"].rows)), np.float32)
    places = np.empty(which.size, np.int32)
    done = 0
    # A pair of a token and one of its experts has the same answer in whatever group it is computed.
    for group in store.fetch(layer, distinct):
        order, starts = _pairs(which, distinct.size, group.members)
        product = _Product(group, parts, starts)
        tokens = (order // experts.shape[1]).astype(np.int32)
        hidden = product("gate", x, tokens)
        swiglu(hidden, product("up", x, tokens), hidden)
        pairs = np.arange(order.size, dtype=np.int32)
        product("down", Activations(hidden), pairs, answers[done : done + order.size])
        places[order] = pairs + np.int32(done)
        done += order.size
    out = np.empty((experts.shape[0], parts["down"].rows), np.float32)
    weighted_sum(answers, places.reshape(experts.shape), weights, out)
    return out


def _one_token(store: ExpertStore, layer: int, x: Activations, experts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    parts = store.records(layer).parts
    networks = Networks.of_records(parts)
    answers = np.empty((experts.size, networks.width), np.float32)
    for records, members, slots in store.fetch(layer, experts):
        networks.answer((records, records, records), slots, members, x, answers)
    out = np.empty((1, parts["down"].rows), np.float32)
    weighted_sum(answers, np.arange(experts.size, dtype=np.int32)[None], weights, out)
    return out


def _pairs(which: np.ndarray, distinct: int, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pairs of the member experts, those of one expert side by side; where each expert's begin, and the end).

    Shapes: which [P], each pair's expert · members [G] -> [at most P] i64, [G + 1] i32
    """
    rank = np.full(distinct, members.size)
    rank[members] = np.arange(members.size)
    ranks = rank[which]
    order = np.argsort(ranks, kind="stable")
    starts = np.searchsorted(ranks[order], np.arange(members.size + 1)).astype(np.int32)
    return order[: starts[-1]], starts


@dataclass(frozen=True)
class _Product:
    """A group's experts times activations."""

    group: Group
    parts: dict[str, RecordPart]
    starts: np.ndarray

    def __call__(
        self, name: str, inputs: Activations, rows_of: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """One matrix of each expert, for the rows of the inputs that its pairs stand for: [P, at least rows] f32."""
        part = self.parts[name]
        if out is None:
            out = np.zeros((rows_of.size, padded(part.rows)), np.float32)
        records, _, slots = self.group
        arrays = inputs.for_format(part.format.id)
        grouped_matmul(part.format.id, records, part.offset, part.rows, slots, self.starts, *arrays, rows_of, out)
        return out
