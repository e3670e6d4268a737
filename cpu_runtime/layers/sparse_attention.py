"""DeepSeek Sparse Attention (DSA): an indexer picks the positions that latent attention then reads.

DeepSeek-AI, "DeepSeek-V3.2" (2025); GLM-5. While no more positions can be seen than are picked, all of them are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import SparseLatentCache
from cpu_runtime.kernels.indexer import index_scores, top_positions
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Activations, Linear
from cpu_runtime.layers.norm import LayerNorm
from cpu_runtime.layers.rope import Rope

_SCORES = 4 << 20  # numbers of scores held at a time (16 MB), unless one token needs more
_STEP = 4096  # by which their memory grows


@dataclass(frozen=True)
class Indexer:
    """Scores positions by a few heads over one key: sum over heads of weight * relu(q . k), and keeps the best `top`.

    Queries are made from the low-rank query of the attention, keys and head weights from the layer's input. The
    first dimensions of queries and keys are rotated.
    """

    q: Linear
    k: Linear
    k_norm: LayerNorm
    weights: Linear
    rope: Rope
    heads: int
    size: int
    top: int

    def keys(self, x: Activations, start: int) -> np.ndarray:
        """What is remembered of T tokens: [T, 1, size] f32."""
        keys = self.k_norm.in_place(self.k(x))[:, None]
        self.rope(keys, start, x.workspace)
        return keys

    def selections(self, x: Activations, low: Activations, start: int, pages: np.ndarray) -> Iterator[np.ndarray]:
        """For each of T tokens from position `start` on, which see `top` positions at least, the best ones, ascending.

        Shapes: x, low of T rows · pages of index keys -> T times [top] i64
        """
        tokens, workspace = x.x.shape[0], x.workspace
        query = self.q(low).reshape(tokens, self.heads, self.size)
        self.rope(query, start, workspace)
        weights = self.weights(x)
        weights *= np.float32((self.heads * self.size) ** -0.5)
        wave = max(1, _SCORES // (start + tokens))
        for first in range(0, tokens, wave):
            last = min(first + wave, tokens)
            # Of few lengths, or a workspace would keep an array for every position.
            count = (last - first) * (start + last)
            scores = workspace.empty((-(-count // _STEP) * _STEP,))[:count].reshape(last - first, -1)
            index_scores(query[first:last], weights[first:last], pages, start + last, scores, workspace)
            for t in range(first, last):
                best = workspace.empty((self.top,), np.int64)
                top_positions(scores[t - first, : start + t + 1], self.top, best)
                yield best


@dataclass(frozen=True)
class SparseLatentAttention:
    """Latent attention to the positions that the indexer picks for each token."""

    latent: LatentAttention
    indexer: Indexer

    def new_cache(self, context: int, dtype: np.dtype) -> SparseLatentCache:
        """An empty cache for one session."""
        return SparseLatentCache(self.latent.row_size, self.indexer.size, context, dtype)

    def __call__(self, x: Activations, cache: SparseLatentCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        low = self.latent.low_query(x)
        query = self.latent.query(low, cache.length)
        start = cache.append(self.latent.latents(x, cache.length), self.indexer.keys(x, cache.length))
        tokens = query.shape[0]
        dense = min(max(self.indexer.top - start, 0), tokens)  # these see at most `top` positions
        parts = []
        if dense:
            parts.append(self.latent.attend(query[:dense], cache, start, x.workspace))
        if dense < tokens:
            # Where these are all, what was quantized already serves again.
            late = (Activations(x.x[dense:]), Activations(low.x[dense:])) if dense else (x, low)
            parts.append(self._attend_selected(*late, query[dense:], cache, start + dense))
        return self.latent.out(parts[0] if len(parts) == 1 else np.concatenate(parts), x.workspace)

    def _attend_selected(
        self, x: Activations, low: Activations, query: np.ndarray, cache: SparseLatentCache, start: int
    ) -> np.ndarray:
        workspace = x.workspace
        absorbed = self.latent.absorbed(query, workspace)
        mixed = workspace.empty((*query.shape[:2], self.latent.rank))
        selections = self.indexer.selections(x, low, start, cache.index_keys.rows)
        for t, positions in enumerate(selections):
            pages = cache.latents.taken(positions, workspace)
            mixed[t] = self.latent.attend_latents(absorbed[t : t + 1], pages, positions.size - 1, workspace)[0]
        return self.latent.value_up(mixed, workspace)
