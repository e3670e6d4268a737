"""Decoding with memory for half of the model: experts touched in their mapping against experts streamed, in turns.

    python -m tests.bench.beyond_memory [--layers 12] [--rounds 2] [--tokens 40] [--folder DIR]

A made-up MiniMax-M2 of 64 experts of 2.7 MB a layer, 8 a token, each run in a process of its own inside a memory cgroup
of half the model's size (root and cgroup version 1 are needed). Routing is drawn: uniform, or keeping half of the
previous token's experts. The drive's rate is what as many threads read of random records, directly, before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cpu_runtime import Engine
from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.record_file import RecordFile
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.experts.streamed import READERS, Statistics, StreamedExperts
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE
from cpu_runtime.memory import process_bytes
from quant.container import QuantizedModel, open_model
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

CGROUP = Path("/sys/fs/cgroup/memory")
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 768,
    "num_local_experts": 64,
    "num_attention_heads": 16,
    "vocab_size": 32_000,
}
STREAMS = {"uniform": 0, "half kept": 4}


# --- the process that decodes ---


@dataclass
class DrawnRouter:
    """Draws each token's experts: `kept` of the previous token's, the others anew."""

    experts: int
    active: int
    kept: int
    random: np.random.Generator
    last: np.ndarray

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, A] i32, weights [T, A] f32."""
        chosen = np.empty((x.x.shape[0], self.active), np.int32)
        for t in range(len(chosen)):
            kept = self.random.permutation(self.last)[: self.kept]
            others = np.setdiff1d(np.arange(self.experts), kept)
            new = self.random.permutation(others)[: self.active - self.kept]
            self.last = chosen[t] = np.concatenate([kept, new])
        return chosen, np.full(chosen.shape, 1 / self.active, np.float32)


def drawn(engine: Engine, store: ExpertStore, kept: int) -> None:
    """Let every layer's experts be drawn, and come from this store."""
    blocks = []
    for block in engine.decoder.blocks:
        moe = block.feed_forward
        assert isinstance(moe, MoE)
        random, experts = np.random.default_rng(moe.layer), SIZES["num_local_experts"]
        router = DrawnRouter(experts, moe.active, kept, random, np.arange(moe.active, dtype=np.int32))
        blocks.append(replace(block, feed_forward=replace(moe, router=router, store=store)))
    engine.decoder = replace(engine.decoder, blocks=blocks)


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


def run(folder: Path, store: str, kept: int, tokens: int, memory_bytes: int) -> dict[str, Any]:
    """Decode, the first third uncounted; dense weights are in memory of their own in either case."""
    model = open_model(folder)
    before = drive_rate(model)
    with Engine(model, context=512, memory_bytes=memory_bytes) as engine:
        streamed = engine.store
        assert isinstance(streamed, StreamedExperts)
        chosen: ExpertStore = streamed
        if store == "mapped":
            streamed.close()
            chosen = MappedExperts(model)
        drawn(engine, chosen, kept)
        engine.warm_up()
        session = engine.session()
        for token in range(tokens // 2):
            session.advance([token])
        streamed.statistics = Statistics()
        start = perf_counter()
        for token in range(tokens):
            session.advance([token])
        seconds = perf_counter() - start
        found: dict[str, Any] = {"tokens_s": tokens / seconds, "resident": process_bytes()}
        if store == "streamed":
            counted = streamed.statistics
            found |= {
                "hit_rate": counted.hits / (counted.hits + counted.misses),
                "held": streamed.slots / (SIZES["num_local_experts"] * len(model.expert_layers)),
                "read_rate": counted.bytes_read / seconds,
                "waited": counted.seconds_waited / seconds,
                "direct": streamed.direct,
            }
        found["drive_rate"] = (before + drive_rate(model)) / 2
    return found


# --- the process that makes the model and starts the others ---


def limited(arguments: Sequence[object], limit: int) -> dict[str, Any]:
    """Run this module's other half under a memory limit."""
    group = CGROUP / f"moe-beyond-memory-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        command = [sys.executable, "-m", "tests.bench.beyond_memory", "--run", *map(str, arguments)]
        shell = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"exit {done.returncode}\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    finally:
        group.rmdir()


def forget(folder: Path) -> None:
    """Take the model out of the cache, which would otherwise belong to whoever wrote it."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--folder", help="where the model is written; the temporary folder if left out")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        folder, store, kept, tokens, memory_bytes = given.run
        print(json.dumps(run(Path(folder), store, int(kept), int(tokens), int(memory_bytes))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        config = scaled(MINIMAX_M25, num_hidden_layers=given.layers, **SIZES)
        folder = write_model(config, Path(scratch) / "model")
        limit = open_model(folder).bytes // 2
        print(f"model {2 * limit / 1e9:.2f} GB, limit {limit / 1e9:.2f} GB\n")
        print(
            "| routing | store | tokens/s | held | hits | read GB/s | of the drive's | waited | resident GB | drive's |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for _ in range(given.rounds):
            for name, kept in STREAMS.items():
                for store in ("mapped", "streamed"):
                    forget(folder)
                    f = limited([folder, store, kept, given.tokens, limit], limit)
                    cells = [name, store, f"{f['tokens_s']:.2f}"]
                    if store == "streamed":
                        share = f["read_rate"] / f["drive_rate"]
                        cells += [f"{f['held']:.0%}", f"{f['hit_rate']:.0%}", f"{f['read_rate'] / 1e9:.2f}"]
                        cells += [f"{share:.0%}", f"{f['waited']:.0%}"]
                    else:
                        cells += [""] * 5
                    cells += [f"{f['resident'] / 1e9:.2f}", f"{f['drive_rate'] / 1e9:.2f}"]
                    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
