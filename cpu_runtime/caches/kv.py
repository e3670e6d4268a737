"""Keys and values of a full-attention layer, one row a token."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.attention import append_kv

_FIRST_CAPACITY = 256  # tokens; doubled whenever it is full, so that a long window costs memory only when it is used


class KVCache:
    """Growing keys and values.

    Shapes: keys, values [K, capacity, d], float16 unless asked otherwise; head-major, so that one head streams.
    """

    def __init__(self, kv_heads: int, head_size: int, dtype: np.dtype) -> None:
        self.length = 0
        self.keys = np.zeros((kv_heads, _FIRST_CAPACITY, head_size), dtype)
        self.values = np.zeros_like(self.keys)

    def append(self, keys: np.ndarray, values: np.ndarray) -> int:
        """Store the rows of T new tokens and return the position of the first; keys, values [T, K, d] f32."""
        start, end = self.length, self.length + keys.shape[0]
        if end > self.keys.shape[1]:
            capacity = max(end, 2 * self.keys.shape[1])
            self.keys = _grown(self.keys, start, capacity)
            self.values = _grown(self.values, start, capacity)
        append_kv(keys, values, start, self.keys, self.values)
        self.length = end
        return start

    def mark(self) -> int:
        """The present length."""
        return self.length

    def rewind(self, mark: int) -> None:
        """Forget the tokens after `mark`."""
        assert mark <= self.length
        self.length = mark

    def clear(self) -> None:
        """Forget every token."""
        self.length = 0

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self.keys.nbytes + self.values.nbytes


def _grown(old: np.ndarray, used: int, capacity: int) -> np.ndarray:
    new = np.zeros((old.shape[0], capacity, old.shape[2]), old.dtype)
    new[:, :used] = old[:, :used]
    return new
