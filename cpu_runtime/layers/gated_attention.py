"""Grouped-query attention with an output gate: Qwen3-Next and Qwen3.5's full-attention layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.kernels.delta import sigmoid_gate
from cpu_runtime.layers.grouped_attention import GroupedAttention
from cpu_runtime.layers.linear import Activations


@dataclass(frozen=True)
class GatedAttention(GroupedAttention):
    """What attention answers is multiplied by sigmoid(gate) before the output projection.

    The query projection gives 2d numbers a head, [query | gate] head by head; queries and keys are normed a head
    at a time before the rotation.
    """

    def __call__(self, x: Activations, cache: KVCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        query_gate, key, value = self.projections(x)
        tokens, d = len(query_gate), self.head_size
        query_gate = query_gate.reshape(tokens, self.heads, 2 * d)
        query = x.workspace.empty((tokens, self.heads, d))
        np.copyto(query, query_gate[:, :, :d])
        mixed = self.mix(query.reshape(tokens, -1), key, value, cache, x.workspace)
        gated = x.workspace.empty(mixed.shape)
        sigmoid_gate(mixed, query_gate, gated)
        return self.o(Activations(gated.reshape(tokens, self.heads * d), x.workspace))
