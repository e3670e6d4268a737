"""`moe fit`: whether a model runs on this machine, and how fast, before it is here."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output

if TYPE_CHECKING:
    from cli.rates import Measured
    from cpu_runtime.fit import Prediction
    from cpu_runtime.footprint import Footprint
    from cpu_runtime.memory import Division


@dataclass(frozen=True)
class Subject:
    """A model that is asked about: where its sizes come from, and what has to be put on the disk for it."""

    name: str
    footprint: Footprint
    origin: str
    download: int  # bytes of the source that are still on the Hub
    stored: bool
    tokenizer: int  # bytes of its file


def fit(
    model: Annotated[str, typer.Argument(help="A name in the store, a folder, or org/name on the Hub.")],
    ctx: options.Context = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory to use, such as 24G; what is free now.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="How it would be quantized.")] = "int4",
    threads: options.Threads = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure this machine again.")] = False,
    json: options.Json = False,
) -> None:
    """Tell whether a model fits this machine, and how fast it would be.

    Of a model on the Hub only config.json is fetched. Every number says where it comes from: computed, measured or
    assumed. Exit code 5 where the model does not fit.
    """
    from cli import byte_size, rates, store
    from cpu_runtime.fit import divided, predict, repeating_hits
    from cpu_runtime.memory import budget
    from cpu_runtime.threads import physical_cores
    from quant.errors import ResourceError, UsageError

    given = byte_size.parse("--memory", memory) if memory is not None else None
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    subject = _subject(model, recipe)
    weighs = subject.footprint
    if ctx is not None and not 1 <= ctx <= weighs.context:
        raise UsageError(f"--ctx {ctx} is outside 1 to {weighs.context}, which {subject.name} was made for")
    window, parts = divided(weighs, given or budget(None), ctx, subject.tokenizer)
    found = rates.measured(threads or physical_cores(), fresh=fresh)
    predictions: list[Prediction] = []
    if parts.runs:
        assumed = (None,) if parts.fits else (None, repeating_hits(parts))
        predictions = [predict(weighs, parts, found.rates, found.drive, hits) for hits in assumed]
    there = next(p for p in (store.models_folder(), *store.models_folder().absolute().parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    needed = 0 if subject.stored else weighs.disk_bytes + subject.download
    if json:
        output.as_json(_facts(subject, window, parts, found, predictions, needed, free))
    else:
        rows = [
            *_sizes(subject, window, needed, free),
            *_memory(parts, "given" if given else "measured now"),
            *_speed(found, predictions),
        ]
        output.table(["", "", "FROM"], rows)
    (output.say if json else output.line)(_verdict(parts, needed, free))
    if not parts.runs or needed > free:
        raise typer.Exit(ResourceError.exit_code)


def _subject(name: str, recipe: str) -> Subject:
    from cli import hub, store
    from cli.names import is_hub_name, parse_hub_name
    from cpu_runtime import footprint
    from cpu_runtime.memory import TOKENIZER_FILES, tokenizer_bytes
    from quant.container import is_quantized, open_model
    from quant.recipe import load_recipe

    chosen = load_recipe(recipe)
    folder = Path(name).expanduser()
    if not folder.is_dir() and is_hub_name(name):
        wanted = parse_hub_name(name)
        pulled = [n for n in store.sources() if n["repo"] == wanted.repo and wanted.revision in (None, n["revision"])]
        if pulled:
            folder = Path(pulled[0]["path"])
        else:
            with output.busy(f"looking up {name}"):
                repository = hub.look_up(wanted)
                folder = hub.fetch(repository, [repository.files["config.json"]])
            source = sum(file.size for file in repository.files.values() if file.name.endswith(".safetensors"))
            text = max((repository.files[n].size for n in TOKENIZER_FILES if n in repository.files), default=0)
            return Subject(
                name, *_unpacked(folder, chosen, config_only=True), download=source, stored=False, tokenizer=text
            )
    elif not folder.is_dir():
        folder = store.find(name)
    text = tokenizer_bytes(folder)
    if is_quantized(folder):
        model = open_model(folder)
        return Subject(folder.name, footprint.of_model(model), "manifest", download=0, stored=True, tokenizer=text)
    return Subject(name, *_unpacked(folder, chosen, config_only=False), download=0, stored=False, tokenizer=text)


def _unpacked(folder: Path, recipe: Any, *, config_only: bool) -> tuple[Footprint, str]:
    """What a checkpoint would become: from its headers, or from config.json where there is nothing else."""
    from cpu_runtime import footprint, plan_for
    from quant.checkpoint import INDEX, SINGLE, Checkpoint, read_json
    from quant.config_source import ConfigSource
    from quant.plan import check

    if config_only or not any((folder / file).exists() for file in (INDEX, SINGLE)):
        config = read_json(folder / "config.json")
        plan = plan_for(config, ())
        source = ConfigSource(config, plan)
        return footprint.of_source(config, plan, recipe, source), f"computed from config.json for {recipe.name}"
    with Checkpoint.open(folder) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        check(plan, checkpoint)
        weighs = footprint.of_source(checkpoint.config, plan, recipe, checkpoint)
    return weighs, f"computed from headers for {recipe.name}"


def _sizes(subject: Subject, window: int, needed: int, free: int) -> list[list[str]]:
    weighs, origin = subject.footprint, subject.origin
    rows = [["weights", output.weights(weighs.weights), origin], ["on disk", output.size(weighs.disk_bytes), origin]]
    rows += [
        [f"  {role}", output.size(size), ""] for role, size in weighs.roles.items() if size >= weighs.disk_bytes / 100
    ]
    if subject.download:
        rows.append(["to download", output.size(subject.download), "the Hub's list of files"])
    if needed:
        rows.append(["free disk", output.size(free), "measured now"])
    rows.append(["read by every token", output.size(weighs.always_bytes), origin])
    rows.append(["experts of a token", output.size(weighs.routed_bytes), origin])
    rows.append([f"cache at {window} tokens", output.size(weighs.cache_bytes(window)), origin])
    return rows


def _memory(parts: Division, origin: str) -> list[list[str]]:
    kept = f"{output.size(parts.kept)} of {output.size(parts.experts)}"
    return [
        ["memory", output.size(parts.total), origin],
        ["  all but experts", output.size(parts.dense), "computed"],
        ["  cache", output.size(parts.caches), "computed"],
        [f"  a prompt, {parts.chunk} tokens at once", output.size(parts.scratch), "computed and assumed"],
        ["  the program", output.size(parts.process), "assumed"],
        ["  experts kept", kept, "what is left"],
    ]


def _speed(found: Measured, predictions: list[Prediction]) -> list[list[str]]:
    rates, when = found.rates, f"measured {found.date}, {found.rates.threads} threads"
    rows = [
        ["memory read", f"{rates.read / 1e9:.1f} GB/s", when],
        ["int8 products", f"{rates.dot / 1e9:.0f} billion/s", when],
        ["disk read", f"{found.drive.rate / 1e9:.2f} GB/s", when],
    ]
    assumptions = ("all experts equally likely", "half are the last token's")
    for prediction, assumed in zip(predictions, assumptions, strict=False):
        rows += [
            ["experts found in memory", f"{100 * prediction.hit_rate:.0f}%", f"assumed: {assumed}"],
            ["  read from disk a token", output.size(prediction.missed_bytes), "computed from that"],
            ["  decode", f"{prediction.decode:.2f} tokens/s", "predicted from the rates, after 1000 tokens"],
        ]
    if predictions:
        rows.append(["first token", f"{predictions[0].first:.1f} s", "predicted, after a prompt of 1000"])
    return rows


def _verdict(parts: Division, needed: int, free: int) -> str:
    if not parts.runs:
        return (
            f"does not fit: {output.size(parts.needed)} of memory needed, {output.size(parts.total)} there; "
            "try a smaller --ctx, or close something"
        )
    if needed > free:
        return f"does not fit: {output.size(needed)} of disk needed, {output.size(free)} free"
    return "fits: all in memory" if parts.fits else "fits: runs with experts read from disk"


def _facts(
    subject: Subject,
    window: int,
    parts: Division,
    found: Measured,
    predictions: list[Prediction],
    needed: int,
    free: int,
) -> dict[str, Any]:
    from cpu_runtime.fit import uniform_hits

    weighs = subject.footprint
    return {
        "model": subject.name,
        "family": weighs.family,
        "fits": parts.runs and needed <= free,
        "in_memory": parts.fits,
        "sizes_from": subject.origin,
        "weights": weighs.weights,
        "disk_bytes": weighs.disk_bytes,
        "roles": weighs.roles,
        "always_bytes": weighs.always_bytes,
        "routed_bytes": weighs.routed_bytes,
        "cache_token_bytes": weighs.cache_bytes(1) - weighs.cache_bytes(0),
        "ctx": window,
        "memory": {**asdict(parts), "kept": parts.kept, "needed": parts.needed},
        "disk": {"needed": needed, "free": free, "download": subject.download},
        "measured": asdict(found),
        "assumed": {"hit_rate": uniform_hits(parts), "routing": "uniform", "program_bytes": parts.process},
        "predicted": _predicted(predictions[0]) if predictions else None,
        "predicted_half_repeated": _predicted(predictions[1]) if len(predictions) > 1 else None,
    }


def _predicted(prediction: Prediction) -> dict[str, float]:
    return {
        "hit_rate": prediction.hit_rate,
        "decode_tokens_per_s": prediction.decode,
        "first_token_s": prediction.first,
        "missed_bytes_a_token": prediction.missed_bytes,
    }
