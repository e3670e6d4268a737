"""Grouped-query attention with queries and keys normed over their whole width: MiniMax-M2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.layers.grouped_attention import GroupedAttention
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.norm import RMSNorm


@dataclass(frozen=True)
class WideNormAttention(GroupedAttention):
    """All H d numbers of a query are normed together, and all K d of a key, before they are split into heads."""

    q_norm: RMSNorm
    k_norm: RMSNorm

    def __call__(self, x: Activations, cache: KVCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        tokens, d = x.x.shape[0], self.head_size
        query, key, value = self.projections(x)
        query = self.q_norm(query).reshape(tokens, self.heads, d)
        key = self.k_norm(key).reshape(tokens, self.kv_heads, d)
        value = value.reshape(tokens, self.kv_heads, d)
        return self.o(Activations(self.mix(query, key, value, cache).reshape(tokens, self.heads * d)))
