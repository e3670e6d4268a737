"""Speed with memory for half of the model: both engines in a memory cgroup, the files out of the cache before."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.bench.half_memory import STREAMS
from tests.bench.llama.bench import Bench, Mode
from tests.bench.llama.speed import RATE
from tests.bench.llama.table import Row, Sample, Target

MODE = Mode("mmap", True)  # the only one that runs: all others hold the weights in memory of their own
FASTER = Target("x", least=2.0)
PROMPT = Target("x", least=2.0)
OF_DRIVE = Target("%", least=0.9)
READ = Target("x", most=1.05)
LRU = Target("points", least=-3.0)
UNIFORM = "uniform"


def rows(bench: Bench) -> list[Row]:
    """Decoding with uniform routing, where llama.cpp has a peer, and keeping half of the experts; and a prompt."""
    pair = bench.pair()
    warm, tokens, prompt = (16, 24, 512) if bench.quick else (32, 64, 512)
    limits = [size // 2 for size in pair.bytes]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in STREAMS}
    theirs, their_prompt = Sample(RATE), Sample(RATE)
    for _ in range(bench.rounds):
        for name, stream in STREAMS.items():
            request = {"memory_bytes": limits[0], "warm": warm, "tokens": tokens, **stream._asdict()}
            request["prompt"] = prompt if name == UNIFORM else 0
            found[name].append(bench.ask_ours("half_memory", pair.ours, limits[0], **request))
        their = {"repetitions": 1, "warm": warm, "warm_prompt": False, "cold": True}
        for test, sample in (((0, tokens, 0), theirs), ((prompt, 0, 0), their_prompt)):
            sample.values += bench.ask_theirs(pair.theirs, MODE, limits[1], tests=[test], **their)["rates"][0]
    drive = Sample("GB/s", [f["drive_rate"] / 1e9 for runs in found.values() for f in runs])
    bench.about["drive, direct reads"] = f"{drive}; ours read {'directly' if found[UNIFORM][0]['direct'] else 'cached'}"
    made = []
    for name, runs in found.items():
        ours = Sample(RATE, [f["decode"]["tokens_s"] for f in runs])
        if name == UNIFORM:
            ratio = ours.median / theirs.median
            made.append(Row("half memory, decode, uniform routing", FASTER, ratio, ours, theirs, str(MODE)))
        shares = _shares(f"half memory, {name}", ours, runs, tokens)
        made += shares[:1] if STREAMS[name].foreseen else shares  # wrong guesses are read besides
    ours = Sample(RATE, [f["prefill"]["tokens_s"] for f in found[UNIFORM]])
    made.append(Row("half memory, pp512", PROMPT, ours.median / their_prompt.median, ours, their_prompt, str(MODE)))
    read = Sample("GB", [f["prefill"]["bytes_read"] / 1e9 for f in found[UNIFORM]])
    rate = median(f["prefill"]["bytes_read"] / f["prefill"]["seconds"] / f["drive_rate"] for f in found[UNIFORM])
    made.append(Row("half memory, pp512, share of the drive", Target("%"), rate, f"{read} read"))
    return made


def _shares(name: str, ours: Sample, runs: list[dict[str, Any]], tokens: int) -> list[Row]:
    """What was missed against the drive's rate, what was read against what was missed, and hits against an LRU's."""

    def each(number: Any) -> float:
        return median(number(f["decode"], f) for f in runs)

    drive = each(lambda d, f: d["misses"] * f["record_bytes"] / tokens * d["tokens_s"] / f["drive_rate"])
    read = each(lambda d, f: d["bytes_read"] / (d["misses"] * f["record_bytes"]))
    hits, lru = each(lambda d, f: d["hits"] / (d["hits"] + d["misses"])), each(lambda d, f: d["lru_hit_rate"])
    missed = each(lambda d, f: d["misses"] * f["record_bytes"] / tokens / 1e6)
    waited = each(lambda d, f: d["waited"])
    return [
        Row(f"{name}, missed bytes' share of the drive", OF_DRIVE, drive, f"{ours}, {missed:.0f} MB missed a token, "
            f"waited {waited:.0%}"),
        Row(f"{name}, read over not resident", READ, read),
        Row(f"{name}, hits against an LRU's", LRU, 100 * (hits - lru), f"{hits:.1%}", f"LRU {lru:.1%}"),
    ]  # fmt: skip
