"""Multi-head latent attention (MLA): all heads' keys and values are made from one small latent row a token.

DeepSeek-AI, "DeepSeek-V2" (2024). Only the latent row and one rotated key are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cpu_runtime.caches.tokens import LatentCache, SparseLatentCache
from cpu_runtime.kernels.attention import PAGE, attend, write_rows
from cpu_runtime.layers.linear import Activations, HeadwiseLinear, Linear, row_range
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Rope
from quant.formats import Matrix

_EXPANDED_BYTES = 64 << 20  # of keys and values made from latents at a time
_INT8_GAIN = 8  # how much faster an int8 product of matrices is than the float32 sums of attention


@dataclass(frozen=True)
class LatentAttention:
    """One MLA mixer; a head's query and key are dn numbers from the latent, then dr rotated ones.

    kv_up [H (dn + dv), R] makes each head's key and value from a latent; k_up [H R, dn] is its key part turned round,
    v_up its value part. Few tokens are computed in the *absorbed* form: k_up takes the query to the latents' space,
    all heads attend to the latents themselves, v_up takes the answer out. Many tokens pay for *expanding* the latents
    to keys and values, a few heads at a time: the sums over positions are then shorter by R / (dn + dv).
    """

    q_a: Linear
    q_norm: RMSNorm
    q_b: Linear
    kv_a: Linear
    kv_norm: RMSNorm
    kv_up: Matrix
    k_up: HeadwiseLinear
    v_up: HeadwiseLinear
    o: Linear
    rope: Rope
    scale: float

    @property
    def heads(self) -> int:
        """H."""
        return self.k_up.heads

    @property
    def rank(self) -> int:
        """R."""
        return self.kv_up.cols

    @property
    def key_size(self) -> int:
        """dn, without the rotated part."""
        return self.k_up.matrix.cols

    @property
    def row_size(self) -> int:
        """R + dr: numbers remembered of a token."""
        return self.kv_a.matrix.rows

    def new_cache(self, context: int, dtype: np.dtype) -> LatentCache:
        """An empty cache for one session."""
        return LatentCache(self.row_size, context, dtype)

    def __call__(self, x: Activations, cache: LatentCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        query = self.query(self.low_query(x), cache.length)
        start = cache.append(self.latents(x, cache.length))
        return self.out(self.attend(query, cache, start))

    def low_query(self, x: Activations) -> Activations:
        """The low-rank form that queries are made from."""
        return Activations(self.q_norm(self.q_a(x)))

    def query(self, low: Activations, start: int) -> np.ndarray:
        """Shapes: -> [T, H, dn + dr] f32, rotated for positions from `start`."""
        query = self.q_b(low).reshape(low.x.shape[0], self.heads, -1)
        self.rope(query[:, :, self.key_size :], start)
        return query

    def latents(self, x: Activations, start: int) -> np.ndarray:
        """What is remembered of T tokens: [T, 1, R + dr] f32, the latent normed, the shared key rotated."""
        rows = self.kv_a(x)[:, None]
        rows[:, 0, : self.rank] = self.kv_norm(rows[:, 0, : self.rank])
        self.rope(rows[:, :, self.rank :], start)
        return rows

    def attend(self, query: np.ndarray, cache: LatentCache | SparseLatentCache, start: int) -> np.ndarray:
        """Shapes: query [T, H, dn + dr] at positions from `start` -> [T, H, dv] f32."""
        gain = 2 * self.rank - self.kv_up.rows // self.heads
        if query.shape[0] * gain * _INT8_GAIN >= self.rank * self.kv_up.rows // self.heads and gain > 0:
            return self._attend_expanded(query, cache.latents.rows, start)
        return self.v_up(self.attend_latents(self.absorbed(query), cache.latents.rows, start))

    def absorbed(self, query: np.ndarray) -> np.ndarray:
        """Queries for the latents themselves: [T, H, dn + dr] -> [T, H, R + dr]."""
        inside = self.k_up(np.ascontiguousarray(query[:, :, : self.key_size]))
        return np.concatenate([inside, query[:, :, self.key_size :]], axis=2)

    def attend_latents(self, absorbed: np.ndarray, pages: np.ndarray, start: int) -> np.ndarray:
        """Mixtures of latents, which v_up takes to values: [T, H, R + dr] -> [T, H, R]."""
        mixed = np.empty((*absorbed.shape[:2], self.rank), np.float32)
        attend(absorbed, pages, pages, start, np.float32(self.scale), mixed)
        return mixed

    def out(self, answers: np.ndarray) -> np.ndarray:
        """Shapes: answers [T, H, dv] -> [T, D] f32."""
        return self.o(Activations(answers.reshape(answers.shape[0], -1)))

    def _attend_expanded(self, query: np.ndarray, pages: np.ndarray, start: int) -> np.ndarray:
        tokens, heads, size = query.shape
        positions, each = start + tokens, self.kv_up.rows // heads  # each: dn + dv
        n_pages = -(-positions // PAGE)
        rows = pages[:n_pages].reshape(n_pages * PAGE, -1)[:positions]
        latents = Activations(rows[:, : self.rank].astype(np.float32))
        rotated = rows[:, None, self.rank :].astype(np.float32)
        answers = np.empty((tokens, heads, each - self.key_size), np.float32)
        step = max(1, min(heads, _EXPANDED_BYTES // (8 * positions * (size + each))))
        for first in range(0, heads, step):
            some = slice(first, min(first + step, heads))
            n = some.stop - some.start
            made = Linear(row_range(self.kv_up, each * some.start, each * some.stop))(latents)
            made = made.reshape(positions, n, each)
            keys = np.zeros((n_pages, n, PAGE, size), pages.dtype)
            values = np.zeros((n_pages, n, PAGE, answers.shape[2]), pages.dtype)
            shared = np.broadcast_to(rotated, (positions, n, rotated.shape[2]))
            write_rows(np.concatenate([made[:, :, : self.key_size], shared], axis=2), 0, keys)
            write_rows(made[:, :, self.key_size :], 0, values)
            mixed = np.empty((tokens, n, answers.shape[2]), np.float32)
            attend(np.ascontiguousarray(query[:, some]), keys, values, start, np.float32(self.scale), mixed)
            answers[:, some] = mixed
        return answers
