"""Grouped-query attention with queries and keys normed over their whole width: MiniMax-M2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.layers.grouped_attention import GroupedAttention
from cpu_runtime.layers.linear import Activations


@dataclass(frozen=True)
class WideNormAttention(GroupedAttention):
    """All H d numbers of a query are normed together, and all K d of a key, before they are split into heads."""

    def __call__(self, x: Activations, cache: KVCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        query, key, value = self.projections(x)
        mixed = self.mix(query, key, value, cache, x.workspace)
        return self.o(Activations(mixed.reshape(len(mixed), -1), x.workspace))
