"""`moe quantize`: a checkpoint to a quantized model."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, output

if TYPE_CHECKING:
    from quant.preview import Preview


def quantize(
    source: Annotated[str, typer.Argument(help="A pulled model (org/name) or a checkpoint's folder.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="int4, int8, bf16, or a recipe file.")] = "int4",
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="A name in the store, or a folder with a slash.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be made.")] = False,
    json: options.Json = False,
) -> None:
    """Convert a checkpoint to a quantized model.

    It is written a layer at a time; a stopped run goes on where it was.
    """
    from cli import store
    from cpu_runtime import plan_for
    from cpu_runtime.text import tokenizer
    from quant.checkpoint import Checkpoint
    from quant.convert import convert
    from quant.preview import preview
    from quant.recipe import load_recipe

    chosen = load_recipe(recipe)
    folder, origin = store.find_source(source)
    target = store.target(out, origin, chosen.name)
    with Checkpoint.open(folder) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        sizes = preview(checkpoint, plan, chosen)
        if not json:
            _show(sizes)
        if not tokenizer.find(folder):
            files = " or ".join(tokenizer.FILES)
            output.say(f"warning: {folder} has no {files}; the model will answer token ids only, not text")
        if not dry_run:
            with output.progress("quantizing", sizes.output_bytes) as advance:
                convert(checkpoint, plan, chosen, target, source=origin, on_progress=lambda p: advance(p.done))
    if json:
        output.as_json({"path": str(target), "made": not dry_run, **_to_json(sizes)})
    elif not dry_run:
        output.line(str(target))
        output.say(f"next: moe chat {store.shortest(target)}")


def _show(sizes: Preview) -> None:
    rows = [
        [role.role, f"{role.weights / 1e6:.1f} M", "+".join(role.formats), f"{role.bits_per_weight:.2f}",
         output.size(role.bytes)]
        for role in sizes.roles
    ]  # fmt: skip
    output.table(["ROLE", "WEIGHTS", "FORMAT", "BITS", "SIZE"], rows, to_stderr=True)
    output.say(
        f"{output.size(sizes.source_bytes)} to {output.size(sizes.output_bytes)}, "
        f"{8 * sizes.output_bytes / sizes.weights:.2f} bits a weight; about {output.size(sizes.peak_bytes)} of memory"
    )


def _to_json(sizes: Preview) -> dict[str, object]:
    return {
        "source_bytes": sizes.source_bytes,
        "output_bytes": sizes.output_bytes,
        "peak_bytes": sizes.peak_bytes,
        "roles": [{**asdict(role), "bits": role.bits_per_weight} for role in sizes.roles],
    }
