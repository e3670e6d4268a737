"""Hostile files: a sound header, index, manifest or config with a few things wrong, read by all that reads it.

    python -m tests.fuzz KIND FIRST COUNT MODEL

runs cases FIRST .. FIRST + COUNT - 1 of a kind (MODEL is a quantized folder), the same ones every time. Each must end
in one of our own errors or in success, within seconds and without taking memory. Prints what did not, and exits with 1.
"""

from __future__ import annotations

import json
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

from tests.conftest import FIXTURES

SOURCE = FIXTURES / "qwen3_5_fused"
STATISTICS = "statistics.safetensors"
SECONDS = 10  # for a case; most take milliseconds
SPIKE = 300 << 20  # bytes that a case may add to the process
DEEP = "@deep"  # in its place comes nesting that no parser should follow

NUMBERS = [-1, 0, 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63), 10**4299, 0.5, 1e308]
ODD = [float("nan"), float("inf"), True, False, None, "", "0", "²", "x" * 300, "\ud800", "a\0b", "..", "../x", "/etc"]
HOSTILE = [*NUMBERS, *ODD, "U8", "BF16", "INT4", "q4", "q8", "k4", [], {}, [[]], [-1, 2], [2**62, 4], {"a": []}, DEEP]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    found = [at]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.extend(places(inner, (*at, key)))
    return found


def change(value: Any, rng: Random) -> Any:
    """The value with one thing in it replaced, dropped, repeated, renamed or exchanged."""
    path = rng.choice(places(value))
    if not path:
        return rng.choice(HOSTILE) if rng.random() < 0.02 else value
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, action = path[-1], rng.randrange(6)
    old = holder[key]
    if action == 0 or not isinstance(holder, dict) and action == 1:
        del holder[key]
    elif action == 1:
        holder[rng.choice(["", "x", "\ud800", "..", "0", "007", "99", "²", "__metadata__"])] = holder.pop(key)
    elif action == 2 and isinstance(old, int) and not isinstance(old, bool):
        holder[key] = old + rng.choice([-1, 1, 16, 64, -64, 4096, old, 2**32, 2**64])
    elif action == 3:
        other = rng.choice(list(holder.keys()) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = rng.choice(HOSTILE)
    return value


def damage(text: bytes, rng: Random) -> bytes:
    """The text with some bytes changed, dropped, repeated or put in."""
    at = rng.randrange(len(text) + 1)
    action = rng.randrange(6)
    if action == 0:
        return text[:at]
    if action == 1:
        return text[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5))) + text[at:]
    if action == 2:
        return text[:at] + text[at : at + rng.randrange(1, 200)] + text[at:]
    if action == 3:
        return text.decode(errors="replace").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
    if action == 4:
        word = rng.choice([b"NaN", b"1e999", b"-1", b"9" * 5000, b"9223372036854775808", b'"\\ud800"', b"\xff\xfe"])
        return text[:at] + word + text[at + 1 :]
    return text[:at] + bytes([text[at % len(text)] ^ 1 << rng.randrange(8)]) + text[at + 1 :]


def mutated(value: Any, rng: Random) -> bytes:
    """JSON of a copy of the value with one to three things wrong."""
    found = json.loads(json.dumps(value))
    for _ in range(rng.randrange(1, 4)):
        if isinstance(found, dict):
            found = change(found, rng)
    text = json.dumps(found).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).encode()
    if rng.random() < 0.1 and text.startswith(b"{"):  # a key twice
        text = b'{"' + rng.choice(list(value)).encode() + b'": 0, ' + text[1:]
    return damage(text, rng) if rng.random() < 0.3 else text


# --- what reads the files ---


def read_checkpoint(folder: Path) -> None:
    """Open a checkpoint, and read rows of every tensor."""
    from cpu_runtime import plan_for
    from quant.checkpoint import Checkpoint
    from quant.plan import check

    with Checkpoint.open(folder) as checkpoint:
        for name in checkpoint.names:
            attempt(lambda name=name: read_rows(checkpoint, name))
        check(plan_for(checkpoint.config, checkpoint.names), checkpoint)


def read_rows(checkpoint: Any, name: str) -> None:
    shape = checkpoint.encoding(name).shape
    if len(shape) > 1:
        checkpoint.rows(name, 0, min(shape[-2], 2), 0 if len(shape) > 2 else None)
    else:
        checkpoint.values(name)


def read_model(folder: Path) -> None:
    """Open a quantized model, describe it, and run it if it opens."""
    from cli.sizes import show_roles
    from cpu_runtime import Engine, footprint
    from quant.container import open_model
    from quant.report import read_report
    from quant.role_sizes import role_sizes

    model = open_model(folder)
    for name in model.manifest["dense"]:
        attempt(lambda name=name: model.matrix(name))
        attempt(lambda name=name: model.vector(name))
    for layer in model.expert_layers:
        attempt(lambda layer=layer: model.expert_layer(layer).check(0, model.expert_layer(layer).records[0]))
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        attempt(lambda: show_roles(role_sizes(model.manifest["dense"], model.manifest["experts"]), read_report(folder)))
    attempt(lambda: footprint.of_model(model))
    with Engine.open(folder, context=64) as engine:
        for _ in engine.logits([1, 2, 3]):
            pass


def read_config(folder: Path) -> None:
    """All that is known from config.json alone."""
    from cpu_runtime import footprint, models
    from quant.checkpoint import read_json
    from quant.config_source import ConfigSource
    from quant.recipe import load_recipe

    config = read_json(folder / "config.json")
    plan = models.plan_for(config, ())
    source = ConfigSource(config, plan)
    footprint.of_source(config, plan, load_recipe("int4"), source)


def read_statistics(folder: Path) -> None:
    """Open statistics of the checkpoint beside them, and ask for what they say of every matrix."""
    from cpu_runtime import plan_for
    from quant.checkpoint import Checkpoint
    from quant.report import expert_matrix
    from quant.statistics import Statistics

    found = Statistics(folder / STATISTICS)
    json.dumps(found.calibration, ensure_ascii=False).encode()
    with Checkpoint.open(folder) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
    found.check(plan)
    names = [dense.name for dense in plan.dense]
    for layer in plan.experts:
        names += [expert_matrix(layer.layer, e, part.name) for e in range(layer.n_experts) for part in layer.parts]
    for name in names:
        attempt(lambda name=name: found.importance(name))


def verify_model(folder: Path) -> None:
    """Compare everything with the manifest."""
    from quant.verify import verify

    verify(folder)


def attempt(action: Callable[[], Any]) -> None:
    """Do it, and let it fail as it may."""
    from quant.errors import MoeError

    try:
        action()
    except MoeError as error:
        str(error).encode(errors="backslashreplace")


# --- the kinds ---


class Kind:
    """One file of a folder that is sound otherwise: `name`, changed by `write`, then read by `read`."""

    def __init__(self, origin: Path, name: str, *read: Callable[[Path], None]) -> None:
        self.origin, self.name, self.read = origin, name, read
        self.sound = (origin / name).read_bytes()

    def write(self, path: Path, rng: Random) -> None:
        """Put a mutated file there."""
        path.write_bytes(mutated(json.loads(self.sound), rng))


class Header(Kind):
    """The header of a safetensors file, and the number before it."""

    def write(self, path: Path, rng: Random) -> None:
        """Put a mutated file there."""
        size = int.from_bytes(self.sound[:8], "little")
        text = mutated(json.loads(self.sound[8 : 8 + size]), rng)
        claimed = len(text)
        if rng.random() < 0.15:
            claimed = rng.choice([0, 1, size + 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1, 100_000_000, len(self.sound)])
        data = self.sound[8 + size :]
        if rng.random() < 0.1:
            data = data[: rng.randrange(len(data) + 1)]
        path.write_bytes(claimed.to_bytes(8, "little") + text + data)


class StatisticsHeader(Header):
    """The same of a file of statistics, which no checkpoint comes with."""

    def __init__(self, origin: Path) -> None:
        from tests.quant.test_statistics import plan_of, written

        self.origin, self.name, self.read = origin, STATISTICS, (read_statistics,)
        with tempfile.TemporaryDirectory() as scratch:
            self.sound = written(Path(scratch) / STATISTICS, plan_of(origin)).read_bytes()


def kinds(model: Path) -> dict[str, Kind]:
    """By name."""
    shard = next(path.name for path in sorted(SOURCE.glob("*.safetensors")))
    return {
        "header": Header(SOURCE, shard, read_checkpoint),
        "index": Kind(SOURCE, "model.safetensors.index.json", read_checkpoint),
        "config": Kind(SOURCE, "config.json", read_config, read_checkpoint),
        "manifest": Kind(model, "manifest.json", read_model, verify_model),
        "stored header": Header(model, "dense.safetensors", read_model, verify_model),
        "statistics": StatisticsHeader(SOURCE),
        "report": Kind(model, "report.json", read_model),
    }


def run(kind: Kind, first: int, count: int) -> list[str]:
    """What went wrong, a text for each case."""
    faults: list[str] = []

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(kind.origin, Path(scratch) / "m"))
        for read in kind.read:
            attempt(lambda read=read: read(folder))  # what is imported and compiled is no spike
        before = peak()
        for case in range(first, first + count):
            kind.write(folder / kind.name, Random(f"{kind.name} {case}"))
            signal.alarm(SECONDS)
            try:
                for read in kind.read:
                    attempt(lambda read=read: read(folder))
            except Exception:
                faults.append(f"case {case} of {kind.name}:\n{traceback.format_exc(limit=-6)}")
            finally:
                signal.alarm(0)
            if peak() - before > SPIKE:
                faults.append(f"case {case} of {kind.name}: {(peak() - before) >> 20} MiB more memory")
                before = peak()
    return faults


def peak() -> int:
    """The most that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run the cases that the command line asks for."""
    found = run(kinds(Path(sys.argv[4]))[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]))
    sys.stderr = sys.stdout
    print("\n".join(found[:10]), len(found), "of", sys.argv[3])
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
