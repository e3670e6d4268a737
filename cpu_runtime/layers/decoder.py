"""A stack of pre-norm blocks between an embedding and a head: the frame every family shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cpu_runtime.layers.linear import Activations, Embedding, Linear
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.residual import Residual
from cpu_runtime.workspace import NEW, Workspace


class Mixer(Protocol):
    """Mixes tokens; keeps what it must remember in a cache of its own kind."""

    def new_cache(self, context: int, dtype: np.dtype) -> Any: ...

    def __call__(self, x: Activations, cache: Any) -> np.ndarray: ...


class FeedForward(Protocol):
    """Works on each token alone."""

    def __call__(self, x: Activations) -> np.ndarray: ...


@dataclass(frozen=True)
class Block:
    """x += mixer(norm1(x)); x += feed_forward(norm2(x))."""

    norm1: RMSNorm
    mixer: Mixer
    norm2: RMSNorm
    feed_forward: FeedForward

    def __call__(self, x: Residual, cache: Any) -> None:
        """Of T rows; the cache grows by T tokens."""
        x.add(self.mixer(x.normed(self.norm1), cache))
        x.add(self.feed_forward(x.normed(self.norm2)))


@dataclass(frozen=True)
class Decoder:
    """Token ids to logits; immutable, so that any number of sessions share it."""

    embedding: Embedding
    blocks: Sequence[Block]
    norm: RMSNorm
    head: Linear

    def new_caches(self, context: int, dtype: np.dtype) -> list[Any]:
        """Empty caches for one session of up to `context` tokens, one a block; what grows is stored as `dtype`."""
        return [block.mixer.new_cache(context, dtype) for block in self.blocks]

    def hidden(self, ids: np.ndarray, caches: Sequence[Any]) -> np.ndarray:
        """The last block's output for T further tokens; the caches move on.

        Shapes: ids [T] i64 -> [T, D] f32.
        """
        x = self.embedding(ids)
        for _ in self.steps(x, caches):
            pass
        return x

    def steps(self, x: np.ndarray, caches: Sequence[Any], workspace: Workspace = NEW) -> Iterator[int]:
        """Run the blocks one after another, and say after each how many are done: x [T, D] f32, changed in place."""
        residual = Residual(x, workspace)
        for done, (block, cache) in enumerate(zip(self.blocks, caches, strict=True), 1):
            block(residual, cache)
            yield done
        residual.settle()

    def logits(self, hidden: np.ndarray, workspace: Workspace = NEW) -> np.ndarray:
        """Shapes: hidden [T, D] f32 -> [T, V] f32."""
        return self.head(Activations.normed(self.norm, hidden, workspace))
