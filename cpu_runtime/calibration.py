"""What each matrix of a model reads while the model reads a text: a layer at a time, so that each is read once.

The text is cut into windows as in `quality.py`. The last layer's output for all of them is held, and as much again
while experts answer: 8 bytes for each token and number of the hidden state. The writer keeps it
on disk too, so that what was stopped goes on after a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpu_runtime.engine import Engine
from cpu_runtime.layers.decoder import Block, Decoder
from cpu_runtime.layers.experts_of_text import ExpertSquares, answer, pieces
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE
from cpu_runtime.layers.watched import Watcher
from quant.errors import CheckpointError
from quant.statistics_reached import Reached
from quant.statistics_writer import StatisticsWriter


@dataclass(frozen=True)
class Seen:
    """Of the routed experts: how many there are, how many saw no token, and the median of the others' tokens."""

    experts: int
    unseen: int
    median: float


class Squares:
    """Sums of the squares of what matrices have read, [C] f64 by name, and over how many rows."""

    def __init__(self) -> None:
        self._sums: dict[str, np.ndarray] = {}
        self._rows: dict[str, int] = {}

    def add(self, name: str, rows: np.ndarray) -> None:
        """Rows [n, C] f32 that the matrix `name` reads."""
        sums = np.einsum("tc,tc->c", rows, rows).astype(np.float64)
        self._sums[name] = self._sums.get(name, 0) + sums
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    def means(self) -> dict[str, np.ndarray]:
        """The mean squares, [C] f64."""
        return {name: sums / self._rows[name] for name, sums in self._sums.items()}


def held_bytes(tokens: int, hidden: int) -> int:
    """Memory that calibrating takes beside what the model does."""
    return 2 * 4 * tokens * hidden


def calibrate(
    engine: Engine,
    windows: Sequence[Sequence[int]],
    out: StatisticsWriter,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Seen:
    """Let the model read windows of equal length, and write what its matrices read; layers that `out` has are left out.

    Progress is told in tokens times layers. Raises CheckpointError where numbers are not finite, and what stores of
    experts raise.
    """
    for window in windows:
        engine.check(window)
    decoder, size = engine.decoder, len(windows[0])
    before = out.reached or _nothing(decoder, np.array(windows, np.int64).reshape(-1))
    if before.hidden.shape != (size * len(windows), decoder.embedding.matrix.cols):
        raise CheckpointError(
            f"what was kept of {engine.name} has {list(before.hidden.shape)} hidden states",
            hint="delete the folder .partial to begin anew",
        )
    x, squares, tokens = before.hidden, Squares(), [before.tokens]
    watcher = Watcher.of(engine.model, squares.add)
    for number, block in enumerate(map(watcher.watched, decoder.blocks[before.layers :]), before.layers):
        for share in _mix(engine, block, x, size):
            on_progress(int(len(x) * (number + share / 2)))
        if isinstance(block.feed_forward, MoE):
            found = ExpertSquares(block.feed_forward)
            for share in answer(block.feed_forward, block.norm2, x, engine.chunk, found):
                on_progress(int(len(x) * (number + (1 + share) / 2)))
            out.add_experts(block.feed_forward.layer, found.tokens, found.squares)
            tokens.append(found.tokens)
        else:
            for some in pieces(len(x), engine.chunk):
                x[some] += block.feed_forward(Activations.normed(block.norm2, x[some]))
        if not np.isfinite(x).all():
            raise CheckpointError(
                f"{engine.name}: what layer {number} answers is not finite",
                hint=f"moe show --verify {engine.name} checks its files",
            )
        on_progress(len(x) * (number + 1))
        out.keep(Reached(number + 1, x, np.concatenate(tokens), before.means | squares.means()))
    head = watcher.name(decoder.head.matrix)
    for some in pieces(len(x), engine.chunk):
        squares.add(head, decoder.norm.in_place(x[some].copy()))
    out.add_dense(before.means | squares.means())
    return _seen(np.concatenate(tokens))


def _nothing(decoder: Decoder, ids: np.ndarray) -> Reached:
    """What is known before the first layer: ids [T] i64."""
    return Reached(0, np.ascontiguousarray(decoder.embedding(ids)), np.zeros(0, np.int64), {})


def _mix(engine: Engine, block: Block, x: np.ndarray, size: int) -> Iterator[float]:
    """x += mixer(norm1(x)), window by window; yields the share that is done."""
    cache = block.mixer.new_cache(size, engine.kv_dtype)
    for start in range(0, len(x), size):
        if engine.pressure is not None:
            engine.pressure.relieve()
        for some in pieces(size, engine.chunk):
            rows = x[start : start + size][some]
            rows += block.mixer(Activations.normed(block.norm1, rows), cache)
        cache.clear()
        yield (start + size) / len(x)


def _seen(tokens: np.ndarray) -> Seen:
    some = tokens[tokens > 0]
    return Seen(tokens.size, int((tokens == 0).sum()), float(np.median(some)) if some.size else 0.0)
