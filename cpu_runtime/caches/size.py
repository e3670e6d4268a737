"""How large a session's caches become, known from a family's config alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheSize:
    """`numbers` are kept of every token, in the caches' dtype; `fixed_bytes` are held whatever the context."""

    numbers: int
    fixed_bytes: int = 0

    def bytes(self, tokens: int, itemsize: int) -> int:
        """Memory that so many tokens take, at `itemsize` bytes a number."""
        return tokens * self.numbers * itemsize + self.fixed_bytes
