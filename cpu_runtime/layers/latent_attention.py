"""Multi-head latent attention (MLA): all heads' keys and values are made from one small latent row a token.

DeepSeek-AI, "DeepSeek-V2" (2024). Only the latent row and one rotated key are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from cpu_runtime.caches.tokens import LatentCache, SparseLatentCache
from cpu_runtime.kernels.attention import attend
from cpu_runtime.kernels.pages import PAGE, write_rows
from cpu_runtime.layers.linear import Activations, HeadwiseLinear, Linear, row_range
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Rope
from cpu_runtime.workspace import Workspace
from quant.formats import ROWS, Matrix

_EXPANDED_BYTES = 64 << 20  # of keys and values made from latents at a time
_INT8_GAIN = 1  # how much faster an int8 product of matrices is than a float32 product of attention


@dataclass(frozen=True)
class LatentAttention:
    """One MLA mixer; a head's query and key are dn numbers from the latent, then dr rotated ones.

    key_up [H dn, R] and value_up [H dv, R] make each head's key and value from a latent; absorb [H R, dn] is key_up
    with each head turned round. Few tokens are computed in the *absorbed* form: absorb takes the query to the latents'
    space, all heads attend to the latents themselves, value_up takes the answer out. Many tokens pay for *expanding*
    the latents to keys and values, a few heads at a time: the sums over positions are then several times shorter.
    """

    q_a: Linear
    q_norm: RMSNorm
    q_b: Linear
    kv_a: Linear
    kv_norm: RMSNorm
    key_up: Matrix
    value_up: HeadwiseLinear
    absorb: HeadwiseLinear
    o: Linear
    rope: Rope
    scale: float

    @property
    def heads(self) -> int:
        """H."""
        return self.absorb.heads

    @property
    def rank(self) -> int:
        """R."""
        return self.key_up.cols

    @property
    def key_size(self) -> int:
        """dn, without the rotated part."""
        return self.absorb.matrix.cols

    @property
    def value_size(self) -> int:
        """dv."""
        return self.value_up.matrix.rows // self.heads

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
        return self.out(self.attend(query, cache, start, x.workspace), x.workspace)

    def low_query(self, x: Activations) -> Activations:
        """The low-rank form that queries are made from."""
        return Activations.normed(self.q_norm, self.q_a(x), x.workspace)

    def query(self, low: Activations, start: int) -> np.ndarray:
        """Shapes: -> [T, H, dn + dr] f32, rotated for positions from `start`."""
        query = self.q_b(low).reshape(low.x.shape[0], self.heads, -1)
        self.rope(query[:, :, self.key_size :], start, low.workspace)
        return query

    def latents(self, x: Activations, start: int) -> np.ndarray:
        """What is remembered of T tokens: [T, 1, R + dr] f32, the latent normed, the shared key rotated."""
        rows = self.kv_a(x)[:, None]
        self.kv_norm.in_place(rows[:, 0, : self.rank])
        self.rope(rows[:, :, self.rank :], start, x.workspace)
        return rows

    def attend(
        self, query: np.ndarray, cache: LatentCache | SparseLatentCache, start: int, workspace: Workspace
    ) -> np.ndarray:
        """Shapes: query [T, H, dn + dr] at positions from `start` -> [T, H, dv] f32."""
        tokens, positions = query.shape[0], start + query.shape[0]
        made = self.key_size + self.value_size
        # The other form takes as many products for its tokens' queries and answers as this for so many positions.
        further = (positions - tokens) * self.rank * made
        if tokens * positions * (2 * self.rank - made) * _INT8_GAIN > further:
            return self._attend_expanded(query, cache.latents.rows, start)
        absorbed = self.absorbed(query, workspace)
        return self.value_up(self.attend_latents(absorbed, cache.latents.rows, start, workspace), workspace)

    def absorbed(self, query: np.ndarray, workspace: Workspace) -> np.ndarray:
        """Queries for the latents themselves: [T, H, dn + dr] -> [T, H, R + dr]."""
        plain, rotated = query[:, :, : self.key_size], query[:, :, self.key_size :]
        alone = workspace.empty(plain.shape)
        np.copyto(alone, plain)
        absorbed = workspace.empty((*query.shape[:2], self.row_size))
        absorbed[:, :, : self.rank] = self.absorb(alone, workspace)
        absorbed[:, :, self.rank :] = rotated
        return absorbed

    def attend_latents(self, absorbed: np.ndarray, pages: np.ndarray, start: int, workspace: Workspace) -> np.ndarray:
        """Mixtures of latents, which value_up takes to values: [T, H, R + dr] -> [T, H, R]."""
        mixed = workspace.empty((*absorbed.shape[:2], self.rank))
        attend(absorbed, pages, pages, start, np.float32(self.scale), mixed, workspace)
        return mixed

    def out(self, answers: np.ndarray, workspace: Workspace) -> np.ndarray:
        """Shapes: answers [T, H, dv] -> [T, D] f32."""
        return self.o(Activations(answers.reshape(answers.shape[0], -1), workspace))

    def _attend_expanded(self, query: np.ndarray, pages: np.ndarray, start: int) -> np.ndarray:
        tokens, heads, size = query.shape
        positions, dn, dv = start + tokens, self.key_size, self.value_size
        n_pages = -(-positions // PAGE)
        rows = pages[:n_pages].reshape(n_pages * PAGE, -1)[:positions]
        latents = Activations(rows[:, : self.rank].astype(np.float32))
        rotated = rows[:, None, self.rank :].astype(np.float32)
        answers = np.empty((tokens, heads, dv), np.float32)
        unit = ROWS // gcd(ROWS, dn)  # heads whose rows fill whole tiles
        step = max(1, _EXPANDED_BYTES // (8 * positions * (size + dv)) // unit) * unit
        for first in range(0, heads, step):
            last = min(first + step, heads)
            n = last - first
            made = Linear(row_range(self.key_up, dn * first, dn * last))(latents).reshape(positions, n, dn)
            shared = np.broadcast_to(rotated, (positions, n, size - dn))
            keys = np.zeros((n_pages, n, PAGE, size), pages.dtype)
            write_rows(np.concatenate([made, shared], axis=2), 0, keys)
            made = Linear(row_range(self.value_up.matrix, dv * first, dv * last))(latents).reshape(positions, n, dv)
            values = np.zeros((n_pages, n, PAGE, dv), pages.dtype)
            write_rows(made, 0, values)
            mixed = np.empty((tokens, n, dv), np.float32)
            attend(np.ascontiguousarray(query[:, first:last]), keys, values, start, np.float32(self.scale), mixed)
            answers[:, first:last] = mixed
        return answers
