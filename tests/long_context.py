"""Sessions with a long past, made without computing it: random rows put into the caches."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import numpy as np

from cpu_runtime import Session
from cpu_runtime.caches.pages import Pages
from cpu_runtime.caches.tokens import TokenCache

STEP = 256  # tokens put in at a time


def remember(cache: TokenCache, tokens: int, rng: np.random.Generator) -> None:
    """Put that many random tokens into a cache."""
    for at in range(0, tokens, STEP):
        count = min(STEP, tokens - at)
        cache.append(*(_rows(pages, count, rng) for pages in cache._pages))


def _rows(pages: Pages, count: int, rng: np.random.Generator) -> np.ndarray:
    _, heads, _, size = pages.rows.shape
    return rng.standard_normal((count, heads, size), np.float32)


def with_past(session: Session, tokens: int) -> Session:
    """The session as if it had read that many tokens."""
    rng = np.random.default_rng(0)
    for cache in session._caches:
        if isinstance(cache, TokenCache):
            remember(cache, tokens, rng)
    session.tokens = [0] * tokens
    return session


def own_memory() -> int:
    """Bytes of memory that are this process's own, without mapped files and what was freed; Linux only."""
    with suppress(AttributeError):  # a C library other than GNU's
        ctypes.CDLL(None).malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) << 10
