"""Grouped-query attention: what its kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.kernels.attention import attend
from cpu_runtime.layers.linear import Linear, SideBySide
from cpu_runtime.layers.rope import Rope


@dataclass(frozen=True)
class GroupedAttention:
    """Projections and cache of H query heads over K key/value heads; query head h reads head h // (H / K)."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    rope: Rope
    heads: int
    kv_heads: int
    head_size: int

    def new_cache(self, context: int, dtype: np.dtype) -> KVCache:
        """An empty cache for one session."""
        return KVCache(self.kv_heads, self.head_size, context, dtype)

    @cached_property
    def projections(self) -> SideBySide:
        """Queries, keys and values of the same input."""
        return SideBySide(self.q, self.k, self.v)

    def mix(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, cache: KVCache) -> np.ndarray:
        """softmax(q k / sqrt(d)) v after the rotation, the new tokens included; the cache grows by them.

        Shapes: query [T, H, d], key and value [T, K, d] f32 -> [T, H, d] f32; query and key are rotated in place.
        """
        self.rope(query, cache.length)
        self.rope(key, cache.length)
        start = cache.append(key, value)
        mixed = np.empty_like(query)
        attend(query, cache.keys.rows, cache.values.rows, start, np.float32(self.head_size**-0.5), mixed)
        return mixed
