"""Grouped-query attention: what its kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.kernels.attention import attend
from cpu_runtime.kernels.qkv import Norms, ready_and_keep
from cpu_runtime.layers.linear import Linear, SideBySide
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Rope
from cpu_runtime.workspace import Workspace


@dataclass(frozen=True)
class GroupedAttention:
    """Projections and cache of H query heads over K key/value heads; query head h reads head h // (H / K).

    Queries and keys are normed before the rotation: a head at a time, or all heads together, as the norms are wide.
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

    @cached_property
    def projections(self) -> SideBySide:
        """Queries, keys and values of the same input."""
        return SideBySide(self.q, self.k, self.v)

    def mix(
        self, query: np.ndarray, key: np.ndarray, value: np.ndarray, cache: KVCache, workspace: Workspace
    ) -> np.ndarray:
        """softmax(q k / sqrt(d)) v after norms and rotation, the new tokens included; the cache grows by them.

        Shapes: query [T, H d], key and value [T, K d] f32 -> [T, H, d] f32; query and key are changed in place.
        """
        tokens = len(query)
        start, keys, values = cache.grow(tokens), cache.keys.stored, cache.values.stored
        ready_and_keep(query, key, value, self._norms, self.rope.turn, start, keys, values, workspace)
        query = query.reshape(tokens, self.heads, self.head_size)
        mixed = workspace.empty(query.shape)
        attend(query, keys, values, start, self._scale, mixed, workspace)
        return mixed

    @cached_property
    def _norms(self) -> Norms:
        return self.q_norm.weight, self.q_norm.eps, self.k_norm.weight, self.k_norm.eps

    @cached_property
    def _scale(self) -> np.float32:
        return np.float32(self.head_size**-0.5)
