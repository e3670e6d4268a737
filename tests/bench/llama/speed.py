"""Speed with the whole model in memory: llama.cpp's best mode is looked for first, then the engines take turns."""

from __future__ import annotations

from collections.abc import Iterable

from tests.bench.llama.bench import Bench, EngineFailed, Mode, Pair, Test, modes
from tests.bench.llama.table import Row, Sample, Target

TESTS: dict[str, Test] = {"tg64": (0, 64, 0), "pp512": (512, 0, 0), "pp2048": (2048, 0, 0), "d8192": (0, 32, 8192)}
NAMES = {"tg64": "decode, tg64", "pp512": "prompt, pp512", "pp2048": "prompt, pp2048", "d8192": "decode, tg32 @ d8192"}
TARGETS = {name: Target("x", least=least) for name, least in zip(TESTS, (1.05, 2.0, 2.0, 1.2), strict=True)}
OF_MEMORY = Target("%", least=0.92)
LOADS = ("mmap, repacked", "mmap", "read, repacked", "read")
RATE = "tokens/s"


def rows(bench: Bench, only: Iterable[str]) -> list[Row]:
    """A row for each of these tests, and what decoding takes of the memory's rate."""
    chosen = [name for name in TESTS if name in only]
    pair = bench.pair()
    best = dict.fromkeys(chosen, bench.mode) if bench.mode else _best_modes(bench, pair, chosen)
    ours, theirs = {name: Sample(RATE) for name in chosen}, {name: Sample(RATE) for name in chosen}
    for _ in range(bench.rounds):
        for long in (False, True):  # the long test has a process of its own, to keep them short
            names = [name for name in chosen if (name == "d8192") == long]
            if not names:
                continue
            found = bench.ask_ours("in_memory", pair.ours, tests=[TESTS[n] for n in names], repetitions=2)
            for name, rates in zip(names, found["rates"], strict=True):
                ours[name].values += rates
            for mode in dict.fromkeys(best[name] for name in names):
                together = [name for name in names if best[name] == mode]
                found = bench.ask_theirs(pair.theirs, mode, tests=[TESTS[n] for n in together])
                for name, rates in zip(together, found["rates"], strict=True):
                    theirs[name].values += rates
    made = []
    for name in chosen:
        ratio = ours[name].median / theirs[name].median
        made.append(Row(NAMES[name], TARGETS[name], ratio, ours[name], theirs[name], str(best[name])))
        if name == "tg64":
            made.append(_of_memory(bench, pair, ours[name], theirs[name]))
        if name == "pp512":
            made.append(_of_products(bench, ours[name], theirs[name]))
    return made


def _best_modes(bench: Bench, pair: Pair, chosen: list[str]) -> dict[str, Mode]:
    """The fastest way to run llama.cpp for each test: of all ways to load, and with flash attention on or off.

    A long prompt is loaded like the short one and a deep context like the empty one, which cost less to try.
    """
    tried: dict[str, dict[Mode, float]] = {name: {} for name in TESTS}
    failed: list[str] = []

    def try_modes(names: list[str], candidates: Iterable[Mode]) -> None:
        for mode in candidates:
            missing = [name for name in names if mode not in tried[name]]
            if missing:
                try:
                    found = bench.ask_theirs(pair.theirs, mode, tests=[TESTS[name] for name in missing])
                except EngineFailed as error:  # with AMX it crashes where weights are repacked
                    failed.append(f"{mode}: {str(error).splitlines()[0]}")
                    continue
                for name, rates in zip(missing, found["rates"], strict=True):
                    tried[name][mode] = max(rates)

    def best(name: str) -> Mode:
        if not tried[name]:
            raise EngineFailed("\n".join(["llama.cpp ended in an error in every mode:", *failed]))
        return max(tried[name], key=tried[name].__getitem__)

    short = ["tg64", "pp512"]
    try_modes(short, modes(LOADS[1:3] if bench.quick else LOADS, True))
    for name in short:
        try_modes(short, [Mode(best(name).load, False)])
    for name, like in (("pp2048", "pp512"), ("d8192", "tg64")):
        if name in chosen:
            on_and_off = (best(like).flash,) if bench.quick else (True, False)
            try_modes([name], modes((best(like).load,), *on_and_off))
    shown = [f"{name} {mode}: {rate:.1f}" for name in TESTS for mode, rate in tried[name].items()]
    bench.about["llama.cpp's modes, tokens/s"] = "; ".join(shown + failed)
    return {name: best(name) for name in chosen}


def _of_memory(bench: Bench, pair: Pair, ours: Sample, theirs: Sample) -> Row:
    """Bytes of weights that a token touches, times tokens a second, against what memory can be read at."""
    read = Sample("GB/s", [found["read_roof"] / 1e9 for found in bench.roofs])
    roof, token = read.median * 1e9, bench.roofs[-1]["token_bytes"]
    bench.about["memory reads"] = f"{read}; a token touches {token / 1e6:.0f} MB"
    share = ours.median * token / roof
    # Theirs differs from ours by the formats' bits and our records' padding only, so files tell what a token touches.
    their_token = token * pair.bytes[1] / pair.bytes[0]
    return Row("decode, share of the memory's rate", OF_MEMORY, share, f"{ours.median * token / 1e9:.1f} GB/s",
               f"{theirs.median * their_token / 1e9:.1f} GB/s, {theirs.median * their_token / roof:.1%}")  # fmt: skip


def _of_products(bench: Bench, ours: Sample, theirs: Sample) -> Row:
    """Products of a prompt's tokens and weights, against int8 products in the first cache; without a target."""
    dot = Sample("billion/s", [found["dot_roof"] / 1e9 for found in bench.roofs])
    products = bench.roofs[-1]["token_products"]
    bench.about["int8 products"] = f"{dot}; a token takes {products / 1e6:.0f} million"
    mine, other = ours.median * products / 1e9, theirs.median * products / 1e9
    return Row("pp512, share of the int8 products", Target("%"), mine / dot.median, f"{mine:.1f} billion/s",
               f"{other:.1f} billion/s, {other / dot.median:.1%}")  # fmt: skip
