"""`moe calibrate` of a model larger than the memory it may use: the most it holds, its rate, and what it reads.

    python -m tests.bench.calibrate_beyond_memory [--layers 12] [--experts 128] [--tokens 8192] [--model DIR]

A made-up MiniMax-M2 with the demo model's tokenizer reads Python's reference, with `--memory` of half and a quarter of
the model. The most it holds is what the kernel has noted (VmHWM), looked at every 50 ms; bytes are those that the drive
read for it. Each expert should be read once, whatever the length of the text, and what every token needs once.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter, sleep
from typing import NamedTuple

from quant.container import open_model
from tests.bench.beyond_memory import SIZES
from tests.bench.cold import forget
from tests.bench.smollm2 import english
from tests.conftest import DEMO
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SHARES = (2, 4)  # of the model, one part in so many
_LOOK = 0.05  # seconds


class Run(NamedTuple):
    """Of a process that ended well: seconds, the most bytes that were resident, bytes it read from the drive."""

    seconds: float
    resident: int
    read: int


def watched(command: list[str]) -> Run:
    """Run a command to its end; seconds in which this process was stopped itself are not counted."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    seconds, resident, read, last = 0.0, 0, 0, perf_counter()
    while process.poll() is None:
        now = perf_counter()
        seconds, last = seconds + min(now - last, 20 * _LOOK), now
        status, io = (Path(f"/proc/{process.pid}/{name}").read_text() for name in ("status", "io"))
        resident = max(resident, _number("VmHWM", status) << 10)
        read = max(read, _number("read_bytes", io))
        sleep(_LOOK)
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(process.stderr.read())
    return Run(seconds, resident, read)


def _number(name: str, text: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0  # a process that has ended has no memory


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--model", type=Path, help="one that is there, with a tokenizer")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        folder = given.model or scratch / "model"
        if given.model is None:
            sizes = SIZES | {"num_local_experts": given.experts}
            write_model(scaled(MINIMAX_M25, num_hidden_layers=given.layers, **sizes), folder)
            for name in TOKENIZER:
                (folder / name).write_bytes((DEMO / name).read_bytes())
        model, text = open_model(folder), scratch / "text.txt"
        text.write_text(english())
        whole = model.bytes - model.matrix("embed").tiles.nbytes  # of the embedding rows are read
        print(f"model {model.bytes / 1e9:.2f} GB, {given.tokens:,} tokens\n")
        print("| memory, GB | held at most | tokens/s | seconds | read, GB | over the model |\n|" + "---|" * 6)
        for share in SHARES:
            forget(folder)
            limit, out = model.bytes // share, scratch / f"{share}"
            asked = ["--text", text, "--tokens", given.tokens, "--memory", limit, "--out", out]
            run = watched([sys.executable, "-m", "cli", "calibrate", *map(str, (folder, *asked))])
            cells = [f"{limit / 1e9:.2f} (1/{share})", f"{run.resident / 1e9:.2f} ({run.resident / limit:.0%})"]
            cells += [f"{given.tokens / run.seconds:.0f}", f"{run.seconds:.0f}", f"{run.read / 1e9:.2f}"]
            print("|", " | ".join([*cells, f"{run.read / whole:.2f} x"]), "|", flush=True)


if __name__ == "__main__":
    main()
