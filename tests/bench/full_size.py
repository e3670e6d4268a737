"""The five models at their full size on this machine: opened, prefilled, decoded, with the memory that took.

    python -m tests.bench.full_size [NAME ...] [--folder DIR] [--limit-gib 22] [--prompt 64] [--tokens 8]

Weights are made up: what every token reads takes real disk (4 to 21 GB), experts are holes that read as zeros. Each
model runs in a process of its own inside a memory cgroup, where one can be made; the pages of mapped files count too.
Seconds a token without disk are measured on the first layers alone, all in memory, and multiplied by their number.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np

from cpu_runtime import Engine, footprint
from cpu_runtime.layers.residual import Residual
from tests.published import PUBLISHED, scaled
from tests.synth import write_model

CGROUP = Path("/sys/fs/cgroup/memory")
WINDOW = 32_768  # tokens, of the cache that is tabled
KEEP_LAYERS = {"Qwen3.5-397B-A17B": 4, "GLM-5": 4, "Kimi-K2.5": 2, "MiniMax-M2.5": 2, "DeepSeek-R1": 4}


# --- the process that runs a model ---


class Memory(threading.Thread):
    """Watches this process every 50 ms: its own memory, and what it has mapped and holds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.swapped = 0

    def run(self) -> None:
        while True:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            self.own = max(self.own, _kib(status["RssAnon"]))
            self.swapped = max(self.swapped, _kib(status["VmSwap"]))
            sleep(0.05)


def _kib(text: str) -> int:
    return int(text.split()[0]) << 10


def run_whole(folder: Path, prompt: int, tokens: int) -> dict[str, Any]:
    """Prefill, decode, and how much memory that took."""
    memory = Memory()
    memory.start()
    started = perf_counter()
    with Engine.open(folder, context=prompt + tokens) as engine:
        ids = np.random.default_rng(0).integers(0, engine.vocab_size, prompt).tolist()
        session = engine.session()
        opened = perf_counter()
        hidden = session.advance(ids)
        prefilled = perf_counter()
        for _ in range(tokens):
            hidden = session.advance([int(engine.decoder.logits(hidden[-1:])[0].argmax())])
        assert np.isfinite(engine.decoder.logits(hidden[-1:])).all()
        decoded = perf_counter()
        caches = session._caches
        grows = sum(cache.token_bytes for cache in caches if hasattr(cache, "token_bytes"))
        fixed = sum(cache.bytes for cache in caches if not hasattr(cache, "token_bytes"))
        sizes = token_bytes(engine)
        kinds = [kind(block) for block in engine.decoder.blocks]
    sleep(0.1)
    return {
        **sizes,
        "kinds": {what: kinds.count(what) for what in kinds},
        "kv": grows * WINDOW + fixed,
        "open_s": opened - started,
        "prefill_s": prefilled - opened,
        "decode_s": (decoded - prefilled) / tokens,
        "own": memory.own,
        "mapped_and_own": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "swapped": memory.swapped,
    }


def token_bytes(engine: Engine) -> dict[str, int]:
    """Bytes on disk, those every token reads by role, and those of the experts it activates."""
    weighs = footprint.of_model(engine.model)
    attention = sum(weighs.roles.get(role, 0) for role in ("attention", "gate", "conv", "state"))
    # Keys are made from latents for long prompts only.
    attention -= sum(
        engine.model.matrix(name).tiles.nbytes for name in engine.model.manifest["dense"] if name.endswith(".key_up")
    )
    return {
        "disk": engine.model.bytes,
        "resident": weighs.always_bytes,
        "attention": attention,
        "other": weighs.always_bytes - attention,
        "routed": weighs.routed_bytes,
    }


def kind(block: Any) -> str:
    """Blocks of one kind take the same time."""
    return f"{type(block.mixer).__name__} + {type(block.feed_forward).__name__}"


def time_layers(folder: Path) -> dict[str, float]:
    """Seconds for one token of a block of each kind and of the head, where everything is in memory."""
    with Engine.open(folder, context=256) as engine:
        decoder = engine.decoder
        caches = decoder.new_caches(engine.context, engine.kv_dtype)
        seconds: dict[str, list[float]] = defaultdict(list)
        for turn in range(16):
            x = Residual(decoder.embedding(np.zeros(1, np.int64)))
            took: dict[str, list[float]] = defaultdict(list)
            for block, cache in zip(decoder.blocks, caches, strict=True):
                start = perf_counter()
                block(x, cache)
                took[kind(block)].append(perf_counter() - start)
            start = perf_counter()
            decoder.logits(x.settle())
            took["head"].append(perf_counter() - start)
            if turn > 3:  # the first compile, and bring the experts that this token uses into memory
                for what, times in took.items():
                    seconds[what] += times
    return {what: float(np.median(times)) for what, times in seconds.items()}


# --- the process that makes models and starts the others ---


def in_cgroup(arguments: list[str], limit: int) -> dict[str, Any]:
    """Run this module's other half under a memory limit, where that can be had; its answer, and the cgroup's peak."""
    group = CGROUP / f"moe-full-size-{os.getpid()}"
    limited = CGROUP.is_dir() and os.access(CGROUP, os.W_OK)
    if limited:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    enter = f"echo $$ > {group}/cgroup.procs; " if limited else ""
    command = [sys.executable, "-m", "tests.bench.full_size", *arguments]
    try:
        shell = ["sh", "-c", enter + 'exec "$@"', "sh", *command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        answer["limited"] = limited
        return answer
    finally:
        if limited:
            group.rmdir()


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Everything about one model."""
    config = PUBLISHED[name]
    limit = int(given.limit_gib * 2**30)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        few = write_model(scaled(config, num_hidden_layers=KEEP_LAYERS[name]), Path(scratch) / "few", sparse=True)
        seconds = in_cgroup(["--time-layers", str(few)], limit)
        shutil.rmtree(few)
        whole = write_model(config, Path(scratch) / "whole", sparse=True)
        found = in_cgroup(["--run-whole", str(whole), str(given.prompt), str(given.tokens)], limit)
        found["ram_s"] = seconds["head"] + sum(n * seconds[what] for what, n in found["kinds"].items())
        return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PUBLISHED), metavar="NAME")
    parser.add_argument("--folder", help="where the models are written; the temporary folder if left out")
    parser.add_argument("--limit-gib", type=float, default=22)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--run-whole", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--time-layers", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run_whole:
        folder, prompt, tokens = given.run_whole
        print(json.dumps(run_whole(Path(folder), int(prompt), int(tokens))))
        return
    if given.time_layers:
        print(json.dumps(time_layers(Path(given.time_layers))))
        return
    print(
        "| model | on disk | read by every token | of it attention | routed a token | cache at 32k | s a token in RAM |"
    )
    print("|---|---|---|---|---|---|---|")
    runs = []
    for name in given.names:
        f = measure(name, given)
        gb = {key: f"{f[key] / 1e9:.2f} GB" for key in ("disk", "resident", "attention", "routed", "kv")}
        print("|", " | ".join([name, *gb.values(), f"{f['ram_s']:.2f}"]), "|", flush=True)
        where = f"limit {given.limit_gib:g} GiB" if f["limited"] else "no cgroup could be made"
        runs.append(
            f"{name}: {given.prompt} tokens in {f['prefill_s']:.0f} s, then {given.tokens} at {f['decode_s']:.1f} s; "
            f"opened in {f['open_s']:.2f} s; own memory {f['own'] / 2**30:.2f} GiB, with mapped pages "
            f"{f['mapped_and_own'] / 2**30:.2f} GiB at most, {f['swapped']} bytes swapped; {where}"
        )
        print(runs[-1], file=sys.stderr, flush=True)
    print("\n" + "\n".join(runs))


if __name__ == "__main__":
    main()
