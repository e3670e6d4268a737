"""Mixture-of-Experts feed-forward: a router, the experts it picks, and perhaps a shared one that always runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from cpu_runtime.experts.store import ExpertStore, Group
from cpu_runtime.kernels.experts import grouped_matmul, open_by, swiglu, weighted_sum
from cpu_runtime.kernels.one_token import weighted_sum_of_token
from cpu_runtime.kernels.router import sigmoid_top_k, softmax_top_k
from cpu_runtime.layers.linear import Activations, Linear, padded
from cpu_runtime.layers.networks import Networks
from quant.layout import RecordPart

_FIRST = np.zeros(1, np.int32)
_AT_ONCE = 1024  # pairs of a token and an expert


class Router(Protocol):
    """Picks A experts for each token."""

    @property
    def active(self) -> int:
        """A."""
        ...

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """(experts [T, A] i32, weights [T, A] f32)."""
        ...


def _picked(x: Activations, active: int) -> tuple[np.ndarray, np.ndarray]:
    """Room for what a router answers."""
    shape = len(x.x), active
    return x.workspace.empty(shape, np.int32), x.workspace.empty(shape)


@dataclass(frozen=True)
class SoftmaxRouter:
    """Softmax over all experts, the A largest, renormalised to sum to 1 (Qwen3 MoE and its descendants)."""

    gate: Linear
    active: int

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, A] i32, weights [T, A] f32."""
        scores = self.gate(x)
        experts, weights = _picked(x, self.active)
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
        experts, weights = _picked(x, self.active)
        groups = self.groups, self.kept
        sigmoid_top_k(scores, self.bias, *groups, self.active, *self._sum, experts, weights, x.workspace)
        return experts, weights

    @cached_property
    def _sum(self) -> tuple[np.float32, np.float32]:
        return np.float32(self.eps), np.float32(self.factor)


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
        swiglu(hidden, self.up(x))
        return self.down(Activations(hidden, x.workspace))

    @cached_property
    def _network(self) -> Networks:
        matrices = (self.gate.matrix, self.up.matrix, self.down.matrix)
        return Networks.of([(m.format, m.rows, m.cols, 0) for m in matrices])

    def _one_token(self, x: Activations) -> np.ndarray:
        gate, up, down = (linear.matrix.tiles.reshape(1, -1) for linear in (self.gate, self.up, self.down))
        out = x.workspace.empty((1, self._network.width))
        self._network.answer((gate, up, down), _FIRST, _FIRST, x, out)
        return out[:, : self._network.rows]


@dataclass(frozen=True)
class GatedMLP:
    """sigmoid(w . x) * mlp(x): a shared expert that each token can turn down (Qwen)."""

    mlp: MLP
    gate: Linear

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        answer = self.mlp(x)
        open_by(self.gate(x), answer)
        return answer


@dataclass(frozen=True)
class MoE:
    """sum over the picked experts of weight * expert(x), plus the shared expert where there is one.

    `ahead` is shown each input, to guess the next layer's experts from it while this layer's are read.
    """

    layer: int
    router: Router
    store: ExpertStore
    shared: MLP | GatedMLP | None = None
    ahead: Callable[[Activations], None] | None = None

    @property
    def active(self) -> int:
        """Experts that a token activates."""
        return self.router.active

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        experts, weights = self.router(x)
        # What does not wait for a record comes between asking and using them.
        if len(experts) == 1:
            groups = self.store.fetch(self.layer, experts[0])
            shared = self._meanwhile(x)
            out = _one_token(groups, self._networks, x, weights)
        else:
            asked = ask(self.store, self.layer, experts)
            shared = self._meanwhile(x)
            out = routed(asked, x, experts, weights)
        if shared is not None:
            out += shared
        return out

    def _meanwhile(self, x: Activations) -> np.ndarray | None:
        if self.ahead is not None:
            self.ahead(x)
        return None if self.shared is None else self.shared(x)

    @cached_property
    def _networks(self) -> Networks:
        return Networks.of_records(self.store.records(self.layer).parts)


class Asked(NamedTuple):
    """Experts on their way: `which` [T * A] i64 of the `distinct` ones each pair of token and expert stands for."""

    groups: Iterator[Group]
    parts: dict[str, RecordPart]
    which: np.ndarray
    distinct: int


def ask(store: ExpertStore, layer: int, experts: np.ndarray) -> Asked:
    """Begin to fetch each active expert, once for all its tokens: experts [T, A] i32."""
    parts = store.records(layer).parts
    distinct, which, uses = np.unique(experts, return_inverse=True, return_counts=True)
    return Asked(store.fetch(layer, distinct, uses, len(experts)), parts, which.ravel(), distinct.size)


def routed(asked: Asked, x: Activations, experts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of each token's experts, for several tokens.

    Shapes: experts [T, A] i32, weights [T, A] f32 -> [T, D] f32.
    """
    groups, parts, which, distinct = asked
    answers = x.workspace.empty((which.size, padded(parts["down"].rows)))
    places = np.empty(which.size, np.int32)
    done = 0
    # A pair of a token and one of its experts has the same answer in whatever group it is computed.
    for group in groups:
        order, starts = _pairs(which, distinct, group.members)
        places[order] = np.arange(done, done + order.size)
        for first, last in _runs(starts):
            product = Product(group.some(first, last), parts, starts[first : last + 1] - starts[first])
            tokens = (order[starts[first] : starts[last]] // experts.shape[1]).astype(np.int32)
            hidden = product("gate", x, tokens)
            swiglu(hidden, product("up", x, tokens))
            pairs = np.arange(tokens.size, dtype=np.int32)
            product("down", Activations(hidden), pairs, answers[done : done + tokens.size])
            done += tokens.size
    out = np.empty((experts.shape[0], parts["down"].rows), np.float32)
    weighted_sum(answers, places.reshape(experts.shape), weights, out)
    return out


def _one_token(groups: Iterator[Group], networks: Networks, x: Activations, weights: np.ndarray) -> np.ndarray:
    """The same for a token alone, whose experts need no sorting: weights [1, A] f32 -> [1, D] f32."""
    answers = x.workspace.empty((weights.shape[1], networks.width))
    for records, members, slots in groups:
        networks.answer((records, records, records), slots, members, x, answers)
    out = x.workspace.empty((1, networks.width))
    weighted_sum_of_token(answers, weights, out)
    return out[:, : networks.rows]


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


def _runs(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last) of runs of experts with about so many pairs that their hidden numbers stay in the cache.

    Shapes: starts [G + 1] i32
    """
    first = 0
    while first < starts.size - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _AT_ONCE, "right")) - 1)
        yield first, last
        first = last


@dataclass(frozen=True)
class Product:
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
            out = inputs.workspace.empty((rows_of.size, padded(part.rows)))
            out[:, part.rows :] = 0
        records, _, slots = self.group
        arrays = inputs.for_format(part.format.id)
        grouped_matmul(part.format.id, records, part.offset, part.rows, slots, self.starts, *arrays, rows_of, out)
        return out
