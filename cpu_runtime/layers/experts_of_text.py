"""A layer's experts for a whole text at once: each is read once, and shows what its matrices read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cpu_runtime.experts.store import Group
from cpu_runtime.kernels.experts import swiglu
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE, Product
from cpu_runtime.layers.norm import RMSNorm
from quant.layout import RecordPart


def pieces(count: int, most: int) -> Iterator[slice]:
    """0 .. count - 1 in nearly equal pieces of `most` at most: one token alone would be computed in another way."""
    cuts = np.linspace(0, count, -(-count // most) + 1).astype(int)
    return map(slice, cuts[:-1].tolist(), cuts[1:].tolist())


class ExpertSquares:
    """What a layer's experts have read.

    Shapes: tokens [E] i64 that each saw · squares: of gate (and up) and of down, the sums over them [E, C] f64
    """

    def __init__(self, moe: MoE) -> None:
        """Nothing yet."""
        layer = moe.store.records(moe.layer)
        self.tokens = np.zeros(len(layer.records), np.int64)
        self.squares = {name: np.zeros((len(layer.records), layer.parts[name].cols)) for name in ("gate", "down")}

    def add(self, expert: int, part: str, rows: np.ndarray) -> None:
        """Rows [n, at least C] f32 that a part of an expert read."""
        sums = self.squares[part]
        seen = rows[:, : sums.shape[1]]
        sums[expert] += np.einsum("tc,tc->c", seen, seen)


def answer(moe: MoE, norm: RMSNorm, x: np.ndarray, chunk: int, found: ExpertSquares) -> Iterator[float]:
    """x += moe(norm(x)), expert by expert; yields the share that is done, and adds what the experts read to `found`.

    Beside x it holds as much again, and `chunk` rows of intermediate results. Shapes: x [T, D] f32.
    """
    tokens = len(x)
    experts, weights = np.empty((tokens, moe.active), np.int32), np.empty((tokens, moe.active), np.float32)
    out = np.zeros_like(x)
    for some in pieces(tokens, chunk):
        inputs = Activations.normed(norm, x[some])
        experts[some], weights[some] = moe.router(inputs)
        if moe.shared is not None:
            out[some] = moe.shared(inputs)
    order, parts = np.argsort(experts.reshape(-1), kind="stable"), moe.store.records(moe.layer).parts
    numbers, uses = np.unique(experts, return_counts=True)
    done = 0
    # One is asked for at a time: of several, those that came first would be added first, in one run not as in another.
    # What that takes is the time in which one is read, beside that in which it answers to hundreds of tokens.
    for at, expert in enumerate(numbers.tolist()):
        mine = order[done : done + uses[at]]
        for alone in moe.store.fetch(moe.layer, numbers[at : at + 1], uses[at : at + 1], tokens):
            for some in pieces(mine.size, chunk):
                pairs = mine[some]
                rows = pairs // moe.active
                inputs = Activations.normed(norm, x[rows])
                answers = _answers(alone, parts, inputs, expert, found)
                out[rows] += weights.reshape(-1)[pairs, None] * answers[:, : x.shape[1]]
        found.tokens[expert] = mine.size
        done += mine.size
        yield done / order.size
    x += out


def _answers(
    alone: Group, parts: dict[str, RecordPart], inputs: Activations, expert: int, found: ExpertSquares
) -> np.ndarray:
    """What one expert answers to each of its rows: [n, at least D] f32."""
    n = len(inputs.x)
    product, each = Product(alone, parts, np.array([0, n], np.int32)), np.arange(n, dtype=np.int32)
    found.add(expert, "gate", inputs.x)
    hidden = product("gate", inputs, each)
    swiglu(hidden, product("up", inputs, each))
    found.add(expert, "down", hidden)
    return product("down", Activations(hidden), each)
