"""Grouped-query attention with queries and keys normed over their whole width: MiniMax-M2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.kernels.attention import attend
from cpu_runtime.layers.linear import Activations, Linear
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Rope


@dataclass(frozen=True)
class WideNormAttention:
    """softmax(q k / sqrt(d)) v, then the output projection; query head h reads key/value head h // (H / K).

    All H d numbers of a query are normed together, and all K d of a key, before they are split into heads.
    """

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: RMSNorm
    k_norm: RMSNorm
    rope: Rope
    heads: int
    kv_heads: int
    head_size: int

    def new_cache(self, context: int, dtype: np.dtype) -> KVCache:
        """An empty cache for one session."""
        return KVCache(self.kv_heads, self.head_size, context, dtype)

    def __call__(self, x: Activations, cache: KVCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        tokens, d = x.x.shape[0], self.head_size
        query = self.q_norm(self.q(x)).reshape(tokens, self.heads, d)
        key = self.k_norm(self.k(x)).reshape(tokens, self.kv_heads, d)
        value = self.v(x).reshape(tokens, self.kv_heads, d)
        self.rope(query, cache.length)
        self.rope(key, cache.length)
        start = cache.append(key, value)
        mixed = np.empty((tokens, self.heads, d), np.float32)
        attend(query, cache.keys.rows, cache.values.rows, start, np.float32(d**-0.5), mixed)
        return self.o(Activations(mixed.reshape(tokens, self.heads * d)))
