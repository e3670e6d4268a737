"""`moe quantize`: a checkpoint to a quantized model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, output, sizes

if TYPE_CHECKING:
    from quant.preview import Preview


def quantize(
    source: Annotated[str, typer.Argument(help="A pulled model (org/name) or a checkpoint's folder.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="int4, int4-small, int4-large, int8, bf16, or a file.")
    ] = "int4",
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
    from cli.resume import quantize_command
    from cpu_runtime import plan_for
    from cpu_runtime.text import tokenizer
    from quant.checkpoint import Checkpoint
    from quant.convert import convert
    from quant.preview import preview
    from quant.recipe import load_recipe
    from quant.report import read_report

    chosen = load_recipe(recipe)
    folder, origin = store.find_source(source)
    target = store.target(out, origin, chosen.name)
    with Checkpoint.open(folder) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        planned = preview(checkpoint, plan, chosen)
        if not json:
            _show(planned)
        if not tokenizer.find(folder):
            files = " or ".join(tokenizer.FILES)
            output.say(f"warning: {folder} has no {files}; the model will answer token ids only, not text")
        if not dry_run:
            with output.progress("quantizing", planned.output_bytes) as advance:
                convert(
                    checkpoint,
                    plan,
                    chosen,
                    target,
                    source=origin,
                    resume=quantize_command(source, recipe, out),
                    on_progress=lambda p: advance(p.done),
                    on_file=sizes.show_file,
                )
    report = None if dry_run else read_report(target)
    if json:
        output.as_json({"path": str(target), "made": not dry_run, **_to_json(planned), "report": report})
    elif not dry_run:
        sizes.show_roles(planned.roles, report, to_stderr=True)
        output.line(str(target))
        output.say(f"next: moe chat {store.shortest(target)}")


def _show(preview: Preview) -> None:
    sizes.show_roles(preview.roles, None, to_stderr=True)
    output.say(f"from {output.size(preview.source_bytes)}; about {output.size(preview.peak_bytes)} of memory")


def _to_json(preview: Preview) -> dict[str, object]:
    return {
        "source_bytes": preview.source_bytes,
        "output_bytes": preview.output_bytes,
        "peak_bytes": preview.peak_bytes,
        "roles": [sizes.as_json(role) for role in preview.roles],
    }
