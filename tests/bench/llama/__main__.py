"""`moe` beside llama.cpp on the same made-up model, shapes and bits alike, as one Markdown table.

    pip install -e '.[bench]'
    python -m tests.bench.llama [--arch minimax_m2] [--layers 12] [--experts 128] [--rounds 3] [--only tg64] [--quick]

llama.cpp comes with llama-cpp-python and is only worth comparing with when built for this CPU:
`CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python`. Rows: tg64 pp512 pp2048 d8192,
`half` (half of the memory; root and cgroup version 1), `growth` (8 times the experts), `first` (time to a first token).
Engines run alternately, each measurement in a process of its own, on a machine that does nothing else; numbers are
medians of all rounds with the least and the most. `--under` runs each of these processes under a command, `taskset` for
one. About 10 GB of scratch space and memory for twice the model are needed.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import tempfile
from pathlib import Path

from cpu_runtime.threads import physical_cores
from tests.bench.llama import beyond, growth, speed
from tests.bench.llama.bench import CONFIGS, Bench, Mode
from tests.bench.llama.table import Row, lines

OTHERS = ("half", "growth", "first")


def main() -> None:
    """Measure and print."""
    names = [*speed.TESTS, *OTHERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=CONFIGS, default="minimax_m2")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="fewer of llama.cpp's modes and tokens, one round")
    parser.add_argument("--only", help=f"rows, of {','.join(names)}")
    parser.add_argument("--mode", type=Mode.named, help="llama.cpp's, such as 'mmap, flash on', instead of the best")
    parser.add_argument("--folder", type=Path, help="where models are kept; a temporary folder if left out")
    parser.add_argument("--under", default="", help="a command that each measured process runs under")
    given = parser.parse_args()
    only = given.only.split(",") if given.only else names
    if unknown := set(only) - set(names):
        parser.error(f"--only {','.join(sorted(unknown))}: rows are {','.join(names)}")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = given.folder or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        rounds = 1 if given.quick else given.rounds
        under = shlex.split(given.under)
        bench = Bench(given.arch, given.layers, given.experts, scratch, given.threads, rounds, given.quick, under)
        bench.mode = given.mode
        print("\n".join(lines(measured(bench, only))))
        print("\n" + "\n".join(f"- {what}: {text}" for what, text in described(bench).items()))


def measured(bench: Bench, only: list[str]) -> list[Row]:
    """The rows asked for."""
    made = speed.rows(bench, only) if set(only) & set(speed.TESTS) else []
    made += beyond.rows(bench) if "half" in only else []
    made += growth.rows(bench) if "growth" in only else []
    made += growth.first_token(bench) if "first" in only else []
    return made


def described(bench: Bench) -> dict[str, str]:
    """What was measured, on what."""
    config = bench.config()
    text = config.get("text_config", config)
    shapes = {key: value for key, value in text.items() if isinstance(value, int) and not isinstance(value, bool)}
    pair = bench.pair()
    return {
        "model": f"{bench.arch}, " + ", ".join(f"{key} {value}" for key, value in shapes.items()),
        "files": f"ours {pair.bytes[0] / 1e9:.2f} GB (experts q4, 4.53 bits; other matrices q8, 8.5; routers float32), "
        f"theirs {pair.bytes[1] / 1e9:.2f} GB (Q4_K, 4.5; Q8_0, 8.5; routers float32)",
        "caches": "keys and values in float16 on both sides; llama.cpp: n_batch 2048, n_ubatch 512",
        "machine": f"{_processor()}, {bench.threads} threads",
        "rounds": f"{bench.rounds}",
        **bench.about,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
