"""What `moe fit` foretells against what is measured: decode and time to first token, in memory and beyond it.

    python -m tests.bench.prediction [--layers 12] [--tokens 24] [--rounds 2] [--folder DIR] [--model DIR]

A made-up MiniMax-M2 of 64 experts of 2.7 MB a layer, 8 a token, with room for all of its weights, for half and for a
quarter beside what the program needs; the latter two inside a memory cgroup of that size, so that no page cache helps
(root and cgroup version 1 are needed). Routing is the model's own: even, with guesses ahead that are right. The rates
that predictions are made from are measured before and after each run. Of all measurements the best counts, as on a
machine where nothing else runs; `others` is the share of the processors that other programs had all the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from cpu_runtime import Engine, drive, fit, footprint, rates
from cpu_runtime.drive import Drive
from cpu_runtime.experts.streamed import Statistics, StreamedExperts
from cpu_runtime.footprint import Footprint
from cpu_runtime.memory import MIB, available_bytes
from cpu_runtime.rates import Rate, Rates
from cpu_runtime.threads import physical_cores
from quant.container import open_model
from quant.jit import set_threads
from tests.bench.beyond_memory import SIZES
from tests.bench.cold import forget
from tests.bench.half_memory import limited
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

CONTEXT = 1280
SHARES = {"all": 1.0, "half": 0.5, "a quarter": 0.25}
THIS = (sys.executable, "-m", "tests.bench.prediction")


def run(folder: Path, memory_bytes: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Read a prompt and decode after it, again and again; a first prompt and the first tokens are not counted."""
    random = np.random.default_rng(0)
    with Engine.open(folder, context=CONTEXT, memory_bytes=memory_bytes or None) as engine:
        engine.warm_up()
        session = engine.session()

        def prompt() -> None:
            session.clear()
            ids = random.integers(0, engine.vocab_size, fit.PROMPT).tolist()
            for start in range(0, len(ids), engine.chunk):
                hidden = session.advance(ids[start : start + engine.chunk])
            session.logits(hidden)

        def decode() -> None:
            for token in random.integers(0, engine.vocab_size, tokens).tolist():
                session.logits(session.advance([token]))

        prompt()
        timed: dict[str, list[tuple[float, float]]] = {"first": [], "decode": []}
        for _ in range(rounds):
            timed["first"].append(_timed(prompt))
            decode()
            if isinstance(engine.store, StreamedExperts):
                engine.store.statistics = Statistics()
            timed["decode"].append(_timed(decode))
        first, written = min(timed["first"]), min(timed["decode"])
        streamed = engine.store if isinstance(engine.store, StreamedExperts) else None
        return {
            "decode": tokens / written[0],
            "first": first[0],
            "others": (written[1], first[1]),
            "hit_rate": streamed.statistics.hit_rate if streamed else 1.0,
            "chunk": engine.chunk,
            "kept": engine.kept_experts_bytes or engine.division.experts,
            "process": engine.division.process,
        }


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """(seconds, the share of the processors that other programs had)."""
    start, everything, own = perf_counter(), *_busy()
    work()
    seconds, (all_after, own_after) = perf_counter() - start, _busy()
    return seconds, max(0.0, all_after - everything - (own_after - own)) / seconds / physical_cores()


def _busy() -> tuple[float, float]:
    """Seconds that the processors have worked, for all and for this program."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / 100, process_time()


def best(one: Any, other: Any) -> Any:
    """What two measurements found, where nothing else disturbed either: the larger rates, the shorter times."""
    if isinstance(one, dict):
        return {key: (min if key in ("launch", "latency") else best)(one[key], other[key]) for key in one}
    if isinstance(one, list | tuple):
        return tuple(best(x, y) for x, y in zip(one, other, strict=True))
    return max(one, other)


def machine(folder: Path, weighs: Footprint) -> tuple[Rates, Drive]:
    """The rates of the model's formats, and its drive's."""
    formats = {work.format for work in (*weighs.always, weighs.head, *weighs.expert)}
    return rates.rates(physical_cores(), tuple(formats)), drive.of_model(open_model(folder))


def quieter(one: tuple[Rates, Drive], other: tuple[Rates, Drive]) -> tuple[Rates, Drive]:
    """The best of two measurements."""
    found, disk = (best(asdict(a), asdict(b)) for a, b in zip(one, other, strict=True))
    formats = {part: {n: Rate(**rate) for n, rate in found[part].items()} for part in ("matrices", "experts")}
    return Rates(**{**found, **formats}), Drive(**disk)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", choices=SHARES, help="one row alone")
    parser.add_argument("--folder", help="where the model is written; the temporary folder if left out")
    parser.add_argument("--model", type=Path, help="a folder to keep the model in, or where it was left")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(Path(given.run[0]), int(given.run[1]), given.tokens, given.rounds)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = given.model or Path(scratch) / "model"
        if not folder.exists():
            write_model(scaled(MINIMAX_M25, num_hidden_layers=given.layers, **SIZES), folder)
        set_threads(physical_cores())
        weighs = footprint.of_model(open_model(folder))
        least = fit.divided(weighs, 1, CONTEXT)[1]
        beside = least.process + least.caches + least.scratch
        print(f"model {weighs.disk_bytes / 1e9:.2f} GB, and {beside / 1e9:.2f} GB beside it\n")
        print("| room for | | predicted | measured | ratio | others | of the prediction |")
        print("|---|---|---|---|---|---|---|")
        before = machine(folder, weighs)
        for name in [given.memory] if given.memory else SHARES:
            before = _row(name, folder, weighs, beside, before, ["--tokens", given.tokens, "--rounds", given.rounds])


def _row(
    name: str, folder: Path, weighs: Footprint, beside: int, before: tuple[Rates, Drive], options: list[Any]
) -> tuple[Rates, Drive]:
    """Print two lines; returns the machine's rates after them."""
    total = beside + int(SHARES[name] * weighs.disk_bytes)
    whole = SHARES[name] == 1
    forget(folder)
    limit = available_bytes() - 512 * MIB if whole else total
    found = limited([*THIS, "--run", folder, 0 if whole else total, *options], limit)
    after = machine(folder, weighs)
    known, disk = quieter(before, after)
    division = fit.divided(weighs, limit, CONTEXT)[1]
    told = fit.predict(weighs, division, known, disk)
    held, real = division.kept / weighs.expert_bytes, found["kept"] / weighs.expert_bytes
    why = f"held {held:.0%} (is {real:.0%}), hits {told.hit_rate:.0%} (are {found['hit_rate']:.0%})"
    more = f"{division.chunk} (are {found['chunk']}) tokens at once, disk {disk.rate / 1e9:.2f} GB/s"
    for what, predicted, got, others, note in (
        ("decode, tokens/s", told.decode, found["decode"], found["others"][0], why),
        ("first token, s", told.first, found["first"], found["others"][1], more),
    ):
        cells = [name, what, f"{predicted:.2f}", f"{got:.2f}", f"{predicted / got:.2f}", f"{others:.0%}", note]
        print("|", " | ".join(cells), "|", flush=True)
    print(f"{found['process'] >> 20} MiB at the start; {known}", file=sys.stderr, flush=True)
    return after


if __name__ == "__main__":
    main()
