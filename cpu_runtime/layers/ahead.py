"""Guessing the next layer's experts while this layer's are being read and computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Block
from cpu_runtime.layers.linear import Activations, padded
from cpu_runtime.layers.moe import MoE, Router


@dataclass(frozen=True)
class Ahead:
    """Tells the store what the next layer's router would pick, were this layer's input its own.

    A layer changes what runs through it little, so that most of these are picked: 79 % in the demo model, 94 % of the
    first of each token (LOG.md). `scale` [Cp] f32 turns what this layer's norm made into what the next one's would.
    """

    layer: int
    router: Router
    store: ExpertStore
    scale: np.ndarray

    def __call__(self, x: Activations) -> None:
        """Shapes: x of T rows."""
        scaled = np.multiply(x.x, self.scale, out=x.workspace.empty(x.x.shape))
        experts, _ = self.router(Activations(scaled, x.workspace))
        tokens = experts.shape[0]
        if tokens == 1:
            likely = experts[0]
        else:
            distinct, uses = np.unique(experts, return_counts=True)
            likely = distinct[np.argsort(-uses, kind="stable")]
        self.store.expect(self.layer, likely, tokens)


def looking_ahead(blocks: Sequence[Block]) -> list[Block]:
    """The same blocks, each layer of experts guessing for the one after it."""
    return [_looking(block, following) for block, following in zip(blocks, [*blocks[1:], None], strict=True)]


def _looking(block: Block, following: Block | None) -> Block:
    moe = block.feed_forward
    if following is None or not isinstance(moe, MoE) or not isinstance(following.feed_forward, MoE):
        return block
    this, that = block.norm2.weight, following.norm2.weight
    scale = np.zeros(padded(this.size), np.float32)
    np.divide(that, this, out=scale[: this.size], where=this != 0)
    ahead = Ahead(following.feed_forward.layer, following.feed_forward.router, moe.store, scale)
    return replace(block, feed_forward=replace(moe, ahead=ahead))
