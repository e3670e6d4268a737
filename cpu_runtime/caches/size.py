"""How large a session's caches become and what attending to them takes, known from a family's config alone."""

from __future__ import annotations

from dataclasses import dataclass

from cpu_runtime.kernels.pages import PAGE

_COPIES = 3  # of a state, at most: see RecurrentState


@dataclass(frozen=True)
class CacheSize:
    """`numbers` are kept of every token, in the caches' dtype; `fixed_bytes` are held whatever the context.

    `products` are those of a prompt's token and one before it, over all layers; `absorbed`, of one that is generated.
    """

    numbers: int
    fixed_bytes: int = 0
    products: int = 0
    absorbed: int = 0

    def bytes(self, tokens: int, itemsize: int) -> int:
        """Memory that so many tokens take, at `itemsize` bytes a number."""
        return tokens * self.numbers * itemsize + self.fixed_bytes

    def most_bytes(self, context: int, itemsize: int) -> int:
        """Memory of a full window, whole pages of it, and of copies of the states."""
        return -(-context // PAGE) * PAGE * self.numbers * itemsize + _COPIES * self.fixed_bytes
