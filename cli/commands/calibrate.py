"""`moe calibrate`: what a model's matrices read, for quantizing them with less harm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, output

if TYPE_CHECKING:
    from cpu_runtime import Engine


def calibrate(
    model: Annotated[str, typer.Argument(help="A model of the same source: a name in the store, or a folder.")],
    text: Annotated[Path, typer.Option("--text", help="What it reads, UTF-8: texts like those it will be used for.")],
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Read so many tokens at most, in whole windows.")] = (
        16_384
    ),
    window: Annotated[int, typer.Option("--ctx", "-c", help="Tokens of a window.")] = 512,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; NAME.statistics.safetensors if left out.")
    ] = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    json: options.Json = False,
) -> None:
    """Collect statistics of a model's activations.

    The model, int8 or bf16 best, reads a text, and the mean square of each input of each matrix is noted, for
    `moe quantize --stats`: its codes are then chosen by what an error there does to the answers. A layer at a time
    reads all of the text, so that experts beyond memory are read from the drive once; that takes 8 bytes of memory for
    each token and number of the hidden state (16,384 tokens of 7,168 numbers: 0.9 GB), which --memory includes. After a
    stop the same command goes on, at a minute's work or a layer before.
    """
    import hashlib

    from cli import store, text_file
    from cli.names import is_hub_name
    from cpu_runtime import calibration, plan_for, quality
    from quant.container import open_model
    from quant.manifest import MANIFEST
    from quant.statistics_writer import StatisticsWriter, refuse_existing

    text_sha256, folder = text_file.checksum(text), store.find(model)
    target = out or Path(f"{folder.resolve().name}.statistics.safetensors")
    refuse_existing(target)
    container = open_model(folder)
    manifest, plan = container.manifest, plan_for(container.config, ())
    container.close()
    hidden = next(dense.shape[1] for dense in plan.dense if dense.role == "embedding")
    held = calibration.held_bytes(min(tokens + window, text.stat().st_size), hidden)
    with _opened(folder, window, threads, memory, held) as engine:
        ids = _ids(engine, text_file.pieces(text), tokens + window)
        cut = quality.windows(ids, window, engine.tokenizer.opening)[: -(-tokens // window)]
        read, layers = len(cut) * window, len(engine.decoder.blocks)
        facts = {
            "model": engine.name,
            "source": manifest["source"]["name"],
            "text": text.name,
            "text_sha256": text_sha256,
            "tokens": str(read),
            "window": str(window),
        }
        output.say(f"reading {read:,} tokens in {len(cut)} windows of {window}")
        reader = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        with StatisticsWriter(target, plan, facts, reader) as writer:
            done = writer.reached.layers if writer.reached else 0
            if done:
                output.say(f"going on after {done} of {layers} layers")
            bar = output.progress(
                "calibrating", layers * read, done=done * read, amount=lambda n: f"{n / read:,.1f} layers"
            )
            with bar as advance:
                seen = calibration.calibrate(engine, cut, writer, advance)
    if json:
        output.as_json({"path": str(target), **facts, "tokens": read, "window": window, "experts": asdict(seen)})
        return
    output.line(str(target))
    if seen.experts:
        output.say(
            f"of {seen.experts:,} experts {seen.unseen:,} saw no token, the others {seen.median:,.0f} in the median"
        )
    source = manifest["source"]["name"].partition("@")[0]
    output.say(f"next: moe quantize {source if is_hub_name(source) else 'SOURCE'} --stats {target}")


def _ids(engine: Engine, pieces: Iterator[str], count: int) -> list[int]:
    """At least `count` ids of a text that is so long: a tokenizer takes some 400 bytes for each while it is at work."""
    ids: list[int] = []
    for piece in pieces:
        ids += engine.tokenizer.encode(piece)
        if len(ids) >= count:
            break
    return ids


def _opened(folder: Path, window: int, threads: int | None, memory: str | None, held: int) -> Engine:
    """The model, in what memory there is beside `held` bytes for the text."""
    from cli import byte_size
    from cpu_runtime import Engine
    from cpu_runtime.memory import budget
    from quant.errors import ResourceError

    most = budget(byte_size.parse("--memory", memory) if memory is not None else None)
    try:
        return Engine.open(folder, threads=threads, context=window, memory_bytes=max(0, most - held))
    except ResourceError as error:
        raise ResourceError(
            f"{error}, besides {held / (1 << 20):.0f} MiB for the text", hint="give more --memory, or fewer --tokens"
        ) from error
