"""Decoding with memory for half of the model: experts touched in their mapping against experts streamed, in turns.

    python -m tests.bench.beyond_memory [--layers 12] [--rounds 2] [--tokens 40] [--folder DIR] [--model DIR]

A made-up MiniMax-M2 of 64 experts of 2.7 MB a layer, 8 a token, each run in a process of its own inside a memory cgroup
of half the model's size (root and cgroup version 1 are needed). Routing is drawn: uniform, or keeping half of the
previous token's experts; what a layer guesses ahead is useless, or foreseen as well as in the demo model. The drive's
rate is what as many threads read of random records, directly, before and after.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from cpu_runtime import Engine
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.experts.streamed import Statistics, StreamedExperts
from cpu_runtime.memory import process_bytes
from quant.container import open_model
from tests.bench.cold import forget
from tests.bench.half_memory import STREAMS, drawn, drive_rate, limited
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 768,
    "num_local_experts": 64,
    "num_attention_heads": 16,
    "vocab_size": 32_000,
}
THIS = (sys.executable, "-m", "tests.bench.beyond_memory")


# --- the process that decodes ---


def run(folder: Path, store: str, stream: str, tokens: int, memory_bytes: int) -> dict[str, Any]:
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
        drawn(engine, chosen, **STREAMS[stream]._asdict())
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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--folder", help="where the model is written; the temporary folder if left out")
    parser.add_argument("--model", type=Path, help="a folder to keep the model in, or where it was left; streams only")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        folder, store, stream, tokens, memory_bytes = given.run
        print(json.dumps(run(Path(folder), store, stream, int(tokens), int(memory_bytes))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        config = scaled(MINIMAX_M25, num_hidden_layers=given.layers, **SIZES)
        folder = given.model or Path(scratch) / "model"
        if not folder.exists():
            write_model(config, folder)
        limit = open_model(folder).bytes // 2
        print(f"model {2 * limit / 1e9:.2f} GB, limit {limit / 1e9:.2f} GB\n")
        print(
            "| routing | store | tokens/s | held | hits | read GB/s | of the drive's | waited | resident GB | drive's |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for _ in range(given.rounds):
            for name, stream in STREAMS.items():
                for store in ("mapped", "streamed")[stream.foreseen or given.model is not None :]:
                    forget(folder)
                    f = limited([*THIS, "--run", folder, store, name, given.tokens, limit], limit)
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
