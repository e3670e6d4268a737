"""What attention costs a token at each depth: one mixer of each family in its published shape, over made-up caches.

    python -m tests.bench.long_context [NAME ...] [--rounds 7]

Milliseconds for one further token, medians; and the bytes a token leaves in the caches of all layers.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from cpu_runtime import Engine
from cpu_runtime.caches.tokens import TokenCache
from cpu_runtime.layers.linear import Activations
from tests.long_context import remember
from tests.published import PUBLISHED, scaled
from tests.synth import write_model

DEPTHS = (1024, 2048, 4096, 8192, 16384, 32000)
# One layer that attends is enough; experts are not looked at.
FEW = {"num_hidden_layers": 1, "first_k_dense_replace": 1, "vocab_size": 512}
FEW_OF = {"Qwen3.5-397B-A17B": {"num_hidden_layers": 4, "num_experts": 16}, "MiniMax-M2.5": {"num_local_experts": 16}}


def times(engine: Engine, rounds: int) -> tuple[list[float], int]:
    """(seconds for one token at each depth, bytes a token) of the first layer that keeps tokens."""
    decoder = engine.decoder
    caches = decoder.new_caches(engine.context, engine.kv_dtype)
    mixer, cache = next((b.mixer, c) for b, c in zip(decoder.blocks, caches, strict=True) if isinstance(c, TokenCache))
    rng = np.random.default_rng(0)
    x = Activations(rng.standard_normal((1, decoder.norm.weight.size), np.float32))
    seconds = []
    for depth in DEPTHS:
        remember(cache, depth - cache.length, rng)
        at, taken = cache.mark(cache.length), []
        for _ in range(rounds + 1):  # the first compiles
            start = perf_counter()
            mixer(x, cache)
            taken.append(perf_counter() - start)
            cache.rewind(at)
        seconds.append(float(np.median(taken[1:])))
    return seconds, cache.token_bytes


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PUBLISHED), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    print("| ms a token a layer at depth |", " | ".join(map(str, DEPTHS)), "| bytes a token a layer |")
    print("|---|" + "---|" * (len(DEPTHS) + 1))
    for name in given.names:
        config = scaled(PUBLISHED[name], **(FEW | FEW_OF.get(name, {})))
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_model(config, Path(scratch) / "model", sparse=True)
            with Engine.open(folder, context=max(DEPTHS) + 1) as engine:
                seconds, size = times(engine, given.rounds)
        print("|", " | ".join([name, *(f"{1000 * s:.1f}" for s in seconds), f"{size:,}"]), "|", flush=True)


if __name__ == "__main__":
    main()
