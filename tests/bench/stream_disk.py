"""What `moe pull --quantize` takes of disk, memory and network, against what its plan says and 1.5 shards.

    python -m tests.bench.stream_disk --gigabytes 2 --shard 0.5
    python -m tests.bench.stream_disk --gigabytes 8 --shard 1 --fp8

A made-up MiniMax-M2 (holes for weights: they are hashed, sent, fetched, verified and quantized as any others) behind a
local server of the Hub's protocol; the store's disk usage is read ten times a second while the command runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.bench.holes import total, write
from tests.command import environment
from tests.hub_server import entry, serving
from tests.published import MINIMAX_M25, scaled

REPO = "made-up/MiniMax-M2"


def on_disk(folder: Path) -> int:
    """Bytes that a folder's files take of the disk; files come and go meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


class Watch(threading.Thread):
    """The most that a folder took of the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.most, self.over = folder, 0, threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        while not self.over.wait(0.1):
            self.most = max(self.most, on_disk(self.folder))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shard", type=float, default=0.5, help="gigabytes of a shard")
    parser.add_argument("--fp8", action="store_true")
    options = parser.parse_args()
    config = scaled(MINIMAX_M25, num_hidden_layers=1, num_local_experts=64, vocab_size=32000)
    if not options.fp8:
        del config["quantization_config"]
    one, two = (total(scaled(config, num_hidden_layers=layers)) for layers in (1, 2))
    config = scaled(config, num_hidden_layers=max(1, 1 + round((options.gigabytes * 1e9 - one) / (two - one))))
    with tempfile.TemporaryDirectory() as place:
        source, home = Path(place) / "source", Path(place) / "home"
        home.mkdir()
        write(source, config, int(options.shard * 1e9))
        shards = [path.stat().st_size for path in source.glob("*.safetensors")]
        for file in source.iterdir():
            entry(file)  # hashed now: a listing that took so long would be given up
        watch = Watch(home)
        with serving({REPO: source}) as hub:
            watch.start()
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "cli", "pull", REPO, "--quantize", "int4", "--json"],
                env=environment(home, HF_ENDPOINT=hub.url),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            took = time.perf_counter() - begun
        watch.over.set()
        watch.join()
        facts = json.loads(done.stdout)
        output = sum(path.stat().st_size for path in Path(facts["path"]).iterdir())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    over = (watch.most - output) / max(shards)
    print(f"source   {sum(shards) / 1e9:7.2f} GB in {len(shards)} shards, the largest {max(shards) / 1e9:.2f} GB")
    print(f"output   {output / 1e9:7.2f} GB")
    print(f"disk     {watch.most / 1e9:7.2f} GB at most: the output and {over:.2f} shards (at most 1.5)")
    print(f"         {facts['plan']['disk'] / 1e9:7.2f} GB foreseen")
    print(f"memory   {memory / 1e9:7.2f} GB at most, {facts['plan']['memory'] / 1e9:.2f} GB foreseen")
    print(f"fetched  {facts['received'] / 1e9:7.2f} GB, {facts['twice'] / 1e6:.1f} MB of it twice, in {took:.0f} s")
    assert over <= 1.5, "more disk than promised"


if __name__ == "__main__":
    main()
