"""Mixture-of-Experts feed-forward: a router, the experts it picks, and a shared expert that always runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.kernels.experts import routed_mlp, swiglu
from cpu_runtime.kernels.router import softmax_top_k
from cpu_runtime.layers.linear import Activations, Linear


class Router(Protocol):
    """Picks A experts for each token."""

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
class MLP:
    """down(silu(gate x) * up x)."""

    gate: Linear
    up: Linear
    down: Linear

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        hidden = self.gate(x)
        swiglu(hidden, self.up(x), hidden)
        return self.down(Activations(hidden))


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
    """sum over the picked experts of weight * expert(x), plus the shared expert."""

    layer: int
    router: Router
    store: ExpertStore
    shared: MLP | GatedMLP

    def __call__(self, x: Activations) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32."""
        experts, weights = self.router(x)
        out = routed(self.store, self.layer, x, experts, weights)
        out += self.shared(x)
        return out


def routed(
    store: ExpertStore, layer: int, x: Activations, experts: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The weighted sum of each token's experts; every active expert is fetched once and serves all its tokens.

    Shapes: experts [T, A] i32, weights [T, A] f32 -> [T, D] f32.
    """
    distinct, which = np.unique(experts, return_inverse=True)
    records, where = store.fetch(layer, distinct)
    layout = store.records(layer)
    out = np.empty((experts.shape[0], layout.parts["down"].rows), np.float32)
    routed_mlp(records, layout.parts, where[which.reshape(experts.shape)], weights, x, out)
    return out
