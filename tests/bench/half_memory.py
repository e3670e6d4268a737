"""Measuring with memory for half of a model: a limited process, drawn routing, the drive's own rate, an LRU's hits."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from cpu_runtime import Engine
from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.reads import READERS
from cpu_runtime.experts.record_file import RecordFile
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.ahead import Ahead
from cpu_runtime.layers.decoder import Block
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE
from quant.container import QuantizedModel
from tests.bench.group import run_in

CGROUP = Path("/sys/fs/cgroup/memory")
RIGHT = (0.94, 0.89, 0.77, 0.58)  # of the demo model's guesses ahead, those at a router's first to fourth choice


def limited(command: Sequence[object], limit: int) -> dict[str, Any]:
    """Run a command under a memory limit and return the JSON object of its last line; needs root and cgroup v1."""
    group = CGROUP / f"moe-half-memory-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        answer: dict[str, Any] = json.loads(run_in(group, command).splitlines()[-1])
        return answer
    finally:
        group.rmdir()


class Stream(NamedTuple):
    """How experts are drawn: `kept` of the previous token's, the others anew.

    Where they are `foreseen`, guesses ahead are right as often as `RIGHT`, else they have nothing to do with them.
    """

    kept: int
    foreseen: bool


STREAMS = {
    "uniform": Stream(0, False),
    "half kept": Stream(4, False),
    "uniform, foreseen": Stream(0, True),
    "half kept, foreseen": Stream(4, True),
}


@dataclass
class DrawnRouter:
    """Draws each token's experts: `kept` of the previous token's, the others anew; `trace` is all it has drawn.

    It takes no longer than the router in whose place it stands.
    """

    experts: int
    active: int
    kept: int
    random: np.random.Generator
    last: np.ndarray
    trace: list[np.ndarray] = field(default_factory=list)
    following: np.ndarray | None = None

    def peek(self) -> np.ndarray:
        """What the next token's experts will be, [A]."""
        if self.following is None:
            kept = self.random.permutation(self.last)[: self.kept].tolist()
            drawn = self.random.permutation(self.experts).tolist()
            others = [expert for expert in drawn if expert not in kept]
            self.following = np.array([*kept, *others[: self.active - self.kept]])
        return self.following

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, A] i32, weights [T, A] f32."""
        chosen = np.empty((x.x.shape[0], self.active), np.int32)
        for t in range(len(chosen)):
            self.last = chosen[t] = self.peek()
            self.following = None
        self.trace.append(chosen)
        return chosen, np.full(chosen.shape, 1 / self.active, np.float32)


@dataclass
class Foreseen:
    """Guesses what another router will draw, as often right as the demo model's look-ahead."""

    router: DrawnRouter
    random: np.random.Generator

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of one row -> experts [1, A] i32, weights [1, A] f32."""
        real = self.router.peek()
        right = np.interp(np.linspace(0, 1, real.size), np.linspace(0, 1, len(RIGHT)), RIGHT)
        others = self.random.permutation(np.setdiff1d(np.arange(self.router.experts), real))[: real.size]
        guess = np.where(self.random.random(real.size) < right, real, others).astype(np.int32)
        return guess[None], np.full((1, real.size), 1 / real.size, np.float32)


def drawn(engine: Engine, store: ExpertStore, kept: int, *, foreseen: bool = False) -> list[DrawnRouter]:
    """Let every layer's experts be drawn, and come from this store; the layers' routers.

    What the layers guess ahead then has nothing to do with what is drawn, unless it is `foreseen`.
    """
    blocks: list[Block] = []
    routers: list[DrawnRouter] = []
    for block in reversed(engine.decoder.blocks):
        moe = block.feed_forward
        assert isinstance(moe, MoE)
        random, experts = np.random.default_rng(moe.layer), store.records(moe.layer).records.shape[0]
        ahead = moe.ahead
        if foreseen and routers and isinstance(ahead, Ahead):
            ahead = replace(ahead, router=Foreseen(routers[0], random))
        routers.insert(0, DrawnRouter(experts, moe.active, kept, random, np.arange(moe.active, dtype=np.int32)))
        blocks.insert(0, replace(block, feed_forward=replace(moe, router=routers[0], store=store, ahead=ahead)))
    engine.decoder = replace(engine.decoder, blocks=blocks)
    return routers


def lru_hit_rate(traces: Sequence[Sequence[np.ndarray]], slots: int, first: int) -> float:
    """Hits of one LRU of `slots` experts for all layers, as a share of what the calls from `first` on ask for.

    Shapes: traces of each layer, of each call [T, A] i32.
    """
    held: OrderedDict[tuple[int, int], None] = OrderedDict()
    hits = asked = 0
    for call, layers in enumerate(zip(*traces, strict=True)):
        for layer, experts in enumerate(layers):
            for key in [(layer, int(expert)) for expert in np.unique(experts)]:
                if call >= first:
                    asked += 1
                    hits += key in held
                held[key] = None
                held.move_to_end(key)
                if len(held) > slots:
                    held.popitem(last=False)
    return hits / asked


def drive_rate(model: QuantizedModel, seconds: float = 2.0) -> float:
    """Bytes a second of direct reads of random records."""
    files = [RecordFile(model.expert_layer(n), direct=True) for n in model.expert_layers]
    arena, random = Arena(READERS, files[0].record_bytes), np.random.default_rng()

    def read(reader: int) -> int:
        generator, count, start = np.random.default_rng(random.integers(1 << 60)), 0, perf_counter()
        while perf_counter() - start < seconds:
            file = files[generator.integers(len(files))]
            expert = int(generator.integers(file.layer.records.shape[0]))
            file.read(expert, arena.slot(reader, file.record_bytes))
            count += 1
        return count

    start = perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        records = sum(pool.map(read, range(READERS)))
    rate = records * files[0].record_bytes / (perf_counter() - start)
    for file in files:
        file.close()
    return rate
