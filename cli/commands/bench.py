"""`moe bench`: how fast a model is on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli import options, output

if TYPE_CHECKING:
    from pathlib import Path

    from cpu_runtime import Engine
    from cpu_runtime.footprint import Footprint
    from cpu_runtime.measure import Speed, Workload

HEADINGS = ("model", "size", "params", "threads", "test", "t/s", "weights read", "of roof", "hits", "disk read")


def bench(
    model: Annotated[str, typer.Argument(help="A name in the store, or a folder.")],
    prompt: Annotated[str, typer.Option("--n-prompt", "-p", help="Tokens of prompts to read; 0 for none.")] = "512",
    generated: Annotated[str, typer.Option("--n-gen", "-n", help="Tokens to generate; 0 for none.")] = "128",
    depth: Annotated[str, typer.Option("--n-depth", "-d", help="Tokens that are there before.")] = "0",
    threads: Annotated[
        str | None, typer.Option("--threads", "-t", help="Threads; the physical cores if not given.")
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", help="Rounds of each test.")] = 5,
    format: Annotated[Literal["md", "csv", "json"], typer.Option("--output", "-o", help="How to print.")] = "md",
    cold: Annotated[bool, typer.Option("--cold", help="Drop the model from the page cache before each round.")] = False,
    memory: options.Memory = None,
    mirror: options.Mirror = None,
) -> None:
    """Time reading a prompt and writing an answer.

    Options and tests are those of llama-bench; each of -p, -n, -d and -t takes a list such as 128,512. Tokens are
    random, a first round is not counted, tokenizing and sampling take no part. Beside the tokens a second stand the
    bytes of weights read and their share of what this machine's memory gives, or for prompts the share of its int8
    products; both are measured in the same run. For a model beyond memory, or beyond --memory, follow the share of
    experts that memory held and the bytes read from disk a second.
    """
    from cli import byte_size, store
    from cpu_runtime.measure import workloads
    from cpu_runtime.threads import physical_cores
    from quant.errors import UsageError

    planned = list(workloads(_numbers("-p", prompt), _numbers("-n", generated), _numbers("-d", depth)))
    counts = _numbers("-t", threads, least=1) if threads else [physical_cores()]
    if not planned or repetitions < 1:
        raise UsageError("there is nothing to measure", hint="-p or -n above 0, -r of at least 1")
    if cold and any(test.depth for test in planned):
        raise UsageError("--cold is for -d 0: filling the depth would read the model", hint="leave one of them out")
    most = byte_size.parse("--memory", memory) if memory is not None else None
    folder = store.find(model)
    rows: list[dict[str, Any]] = []
    if format == "md":
        output.line(_markdown(HEADINGS))
        output.line(_markdown(["---"] * 5 + ["---:"] * 5))
    for n in counts:
        for row in _measure(folder, planned, n, repetitions, cold, most, mirror):
            rows.append(row)
            if format == "md":
                output.line(_markdown(_cells(row)))
    if format == "json":
        output.as_json(rows)
    elif format == "csv":
        _csv(rows)


def _measure(
    folder: Path,
    planned: list[Workload],
    threads: int,
    repetitions: int,
    cold: bool,
    most: int | None,
    mirror: Path | None,
) -> Iterator[dict[str, Any]]:
    from cpu_runtime import Engine, roofs

    window = max(test.depth + test.tokens for test in planned)
    opened = partial(Engine.open, folder, threads=threads, memory_bytes=most, mirror=mirror)
    weighs, size, name = _weighed(opened, window)
    with output.busy("measuring this machine"):
        read, dot = roofs.roofs()
    output.say(
        f"{threads} threads: memory read at {read / 1e9:.1f} GB/s, {dot / 1e9:.0f} billion int8 products a second"
    )
    for test in planned:
        with output.busy(f"{test}, {threads} threads"):
            speed = _cold(opened, test, repetitions) if cold else _warm(opened, window, test, repetitions)
        yield _row(name, size, weighs, threads, speed, cold, read, dot)


# An engine holds its dense weights as long as it has a name, closed or not: each has one in a function of its own, so
# that it is gone when the next is opened.


def _weighed(opened: Callable[..., Engine], window: int) -> tuple[Footprint, int, str]:
    """(what the model weighs, bytes of it that are mapped, its name), once its kernels are there."""
    from cpu_runtime import footprint

    with opened(context=window) as engine:
        with output.busy("compiling or loading kernels"):
            engine.warm_up()
        return footprint.of_model(engine.model), engine.mapped_bytes, engine.name


def _warm(opened: Callable[..., Engine], window: int, test: Workload, repetitions: int) -> Speed:
    """All rounds on one model."""
    from cpu_runtime import measure

    with opened(context=window) as engine:
        return measure.run(engine, test, repetitions)


def _cold(opened: Callable[..., Engine], test: Workload, repetitions: int) -> Speed:
    """Each round on a model opened anew, after its pages were dropped."""
    from cpu_runtime import measure

    def once() -> Speed:
        with opened(context=test.tokens) as engine:
            engine.model.forget_pages()
            return measure.run(engine, test, 1, warm=False)

    return measure.mean_of([once() for _ in range(repetitions)])


def _row(
    name: str, size: int, weighs: Footprint, threads: int, speed: Speed, cold: bool, read: float, dot: float
) -> dict[str, Any]:
    reads, products = speed.bytes_read(weighs), speed.products(weighs)
    return {
        "model": name,
        "size": size,
        "params": weighs.weights,
        "threads": threads,
        "test": str(speed.test),
        "n_prompt": speed.test.prompt,
        "n_gen": speed.test.generated,
        "n_depth": speed.test.depth,
        "cold": cold,
        "tokens_per_s": speed.mean,
        "deviation": speed.deviation,
        "samples": list(speed.rates),
        "weights_read_bytes_per_s": reads,
        "products_per_s": products,
        "memory_roof_bytes_per_s": read,
        "int8_roof_products_per_s": dot,
        "roof_share": reads / read if reads is not None else (products or 0) / dot,
        "expert_hit_rate": speed.hit_rate,
        "disk_read_bytes_per_s": speed.disk_bytes_per_s,
    }


def _cells(row: dict[str, Any]) -> list[str]:
    reads = row["weights_read_bytes_per_s"]
    return [
        row["model"],
        output.size(row["size"]),
        output.weights(row["params"]),
        str(row["threads"]),
        row["test"] + (", cold" if row["cold"] else ""),
        f"{row['tokens_per_s']:.2f} ± {row['deviation']:.2f}",
        "" if reads is None else f"{reads / 1e9:.2f} GB/s",
        f"{100 * row['roof_share']:.0f}% of {'int8' if reads is None else 'memory'}",
        "" if row["expert_hit_rate"] is None else f"{row['expert_hit_rate']:.0%}",
        "" if row["disk_read_bytes_per_s"] is None else f"{row['disk_read_bytes_per_s'] / 1e9:.2f} GB/s",
    ]


def _markdown(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _csv(rows: list[dict[str, Any]]) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(" ".join(map(str, v)) if isinstance(v, list) else v for v in row.values())


def _numbers(option: str, text: str, least: int = 0) -> list[int]:
    """A list such as 128,512; raises UsageError for anything else."""
    from quant.errors import UsageError

    parts = text.split(",")
    if not all(re.fullmatch(r" *[0-9]{1,9} *", part) and int(part) >= least for part in parts):
        raise UsageError(f"{option} {text}: expected whole numbers of at least {least}, such as 128,512")
    return [int(part) for part in parts]
