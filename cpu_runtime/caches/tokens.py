"""The memory of an attention layer: for each token, a row in one or more sets of pages."""

from __future__ import annotations

import numpy as np

from cpu_runtime.caches.pages import Pages
from cpu_runtime.kernels.pages import PAGE


class TokenCache:
    """Grows by rows and can be cut back to any length; `length` is how many tokens it remembers."""

    cuttable = True

    def __init__(self, *pages: Pages) -> None:
        self.length = 0
        self._pages = pages
        self._room = PAGE * len(pages[0].rows)

    def append(self, *rows: np.ndarray) -> int:
        """Store T new tokens, an array of rows [T, heads, size] f32 for each set of pages -> first position."""
        start = self.grow(rows[0].shape[0])
        for pages, new in zip(self._pages, rows, strict=True):
            pages.write(new, start)
        return start

    def grow(self, tokens: int) -> int:
        """Count so many new tokens, whose rows the caller stores -> first position."""
        start, self.length = self.length, self.length + tokens
        assert self.length <= self._room, "the window is full"
        return start

    def mark(self, length: int) -> int:
        """That length."""
        assert length <= self.length
        return length

    def rewind(self, mark: int) -> None:
        """Forget the tokens after `mark`."""
        assert mark <= self.length
        self.length = mark

    def clear(self) -> None:
        """Forget every token."""
        if self.length:
            self.length = 0
            for pages in self._pages:
                pages.clear()

    @property
    def token_bytes(self) -> int:
        """Memory a token takes."""
        return sum(pages.token_bytes for pages in self._pages)

    @property
    def bytes(self) -> int:
        """Memory that the remembered tokens take."""
        return self.length * self.token_bytes

    @property
    def most_bytes(self) -> int:
        """Memory of a full window."""
        return sum(pages.rows.nbytes for pages in self._pages)


class KVCache(TokenCache):
    """Keys and values of a full-attention layer: [K heads, d] each."""

    def __init__(self, kv_heads: int, head_size: int, context: int, dtype: np.dtype) -> None:
        self.keys = Pages(kv_heads, head_size, context, dtype)
        self.values = Pages(kv_heads, head_size, context, dtype)
        super().__init__(self.keys, self.values)


class LatentCache(TokenCache):
    """What multi-head latent attention remembers: one row of R latent and d_rope rotated numbers for all heads."""

    def __init__(self, row_size: int, context: int, dtype: np.dtype) -> None:
        self.latents = Pages(1, row_size, context, dtype)
        super().__init__(self.latents)


class SparseLatentCache(TokenCache):
    """The same, and the key by which an indexer finds the token again."""

    def __init__(self, row_size: int, index_size: int, context: int, dtype: np.dtype) -> None:
        self.latents = Pages(1, row_size, context, dtype)
        self.index_keys = Pages(1, index_size, context, dtype)
        super().__init__(self.latents, self.index_keys)
