"""The most memory that quantizing takes in each of the five full-size shapes, against 2 GiB and what was foreseen.

    python -m tests.bench.quantize_memory [NAME ...] [--experts 16] [--folder DIR]

Sources are made of holes: zeros in the published shapes and encodings, which are read, quantized and written as any
weights are. So many layers are kept that each kind is there, and fewer experts than there are, since a run holds a few
matrices at a time however many there are: with --experts 0 all of them stay.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.bench import holes
from tests.command import environment
from tests.published import PUBLISHED, scaled

LIMIT = 2 << 30
KEEP_LAYERS = {"Qwen3.5-397B-A17B": 4, "GLM-5": 4, "Kimi-K2.5": 2, "MiniMax-M2.5": 1, "DeepSeek-R1": 4}
SHARD = 5_000_000_000


def peak(source: Path, home: Path) -> tuple[int, int]:
    """(bytes of memory that `moe quantize` held at most, bytes that it foresaw)."""
    command = [sys.executable, "-m", "cli", "quantize", str(source), "--out", f"{home}/made", "--json"]
    with subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        answer = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}")
    return usage.ru_maxrss << 10, json.loads(answer)["peak_bytes"]


def fewer(config: dict[str, Any], name: str, experts: int) -> dict[str, Any]:
    """The config with the layers that are kept, and so many experts."""
    text = config.get("text_config", config)
    keys = [key for key in ("num_experts", "n_routed_experts", "num_local_experts") if key in text]
    changes = dict.fromkeys(keys, experts) if experts else {}
    return scaled(config, num_hidden_layers=KEEP_LAYERS[name], **changes)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(PUBLISHED), metavar="NAME")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--folder", help="where sources and models are written; the temporary folder if left out")
    given = parser.parse_args()
    print("| model | layers, experts | source | peak memory | of 2 GiB | foreseen | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in given.names:
        config = fewer(PUBLISHED[name], name, given.experts)
        with tempfile.TemporaryDirectory(dir=given.folder) as place:
            source = holes.write(Path(place) / "source", config, SHARD)
            start = perf_counter()
            found, foreseen = peak(source, Path(place))
            took = perf_counter() - start
        kept = f"{KEEP_LAYERS[name]}, {given.experts or 'all'}"
        cells = [name, kept, f"{holes.total(config) / 1e9:.1f} GB", f"{found / 2**30:.2f} GiB", f"{found / LIMIT:.2f}"]
        print("|", " | ".join([*cells, f"{foreseen / 2**30:.2f} GiB", f"{took:.0f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
