"""`moe quantize`: a checkpoint to a quantized model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import conversion_json, options, output, recipe_choice, sizes

if TYPE_CHECKING:
    from quant.budget import Budget
    from quant.checkpoint import Checkpoint
    from quant.formats import Format
    from quant.matrix_errors import Kind
    from quant.plan import Plan
    from quant.preview import Preview
    from quant.recipe import Recipe
    from quant.statistics import Statistics


def quantize(
    source: Annotated[str, typer.Argument(help="A pulled model (org/name) or a checkpoint's folder.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "-r",
            help="int4 (if not given), int3 (with --stats), int4-small, int4-large, int8, bf16, or a file.",
        ),
    ] = None,
    bpw: options.BitsPerWeight = None,
    size: options.Size = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="A name in the store, or a folder with a slash.")
    ] = None,
    stats: options.Stats = None,
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
    from quant.building import partial_folder
    from quant.checkpoint import Checkpoint
    from quant.convert import convert, fingerprint
    from quant.plan import check
    from quant.preview import preview
    from quant.report import read_report

    unsaid = bpw is None and size is None
    choice = recipe_choice.choice("--recipe", recipe or ("int4" if unsaid else None), bpw, size, stats)
    assert choice is not None
    folder, origin = store.find_source(source)
    target = store.target(out, origin, choice.name)
    with Checkpoint.open(folder) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        check(plan, checkpoint)
        chosen = choice.settle(
            plan,
            partial_folder(target),
            lambda recipe: fingerprint(checkpoint, plan, recipe),
            lambda budget: _solve(checkpoint, plan, budget, choice.statistics),
        )
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
                    resume=quantize_command(source, choice, out),
                    on_progress=lambda p: advance(p.done),
                    on_file=sizes.show_file,
                )
    if json:
        output.as_json(
            conversion_json.of_plan(target, chosen, planned) if dry_run else conversion_json.of_model(target)
        )
    elif not dry_run:
        sizes.show_roles(planned.roles, read_report(target), to_stderr=True)
        output.line(str(target))
        output.say(f"next: moe chat {store.shortest(target)}")


def _solve(checkpoint: Checkpoint, plan: Plan, budget: Budget, statistics: Statistics | None) -> Recipe:
    """A recipe for this model, from the errors that formats make in rows of it."""
    from quant.matrix_errors import MeasuredErrors
    from quant.solved_recipe import solve

    errors = MeasuredErrors(checkpoint, plan)
    with output.progress("measuring errors", errors.matrices, amount=lambda n: f"{n:,.0f} matrices") as advance:

        def error(kind: Kind, form: Format) -> float:
            found = errors(kind, form)
            advance(errors.measured)
            return found

        recipe = solve(plan, checkpoint, error, budget, statistics)
    output.say(f"{recipe.name}: {recipe.description}")
    return recipe


def _show(preview: Preview) -> None:
    sizes.show_roles(preview.roles, None, to_stderr=True)
    output.say(f"from {output.size(preview.source_bytes)}; about {output.size(preview.peak_bytes)} of memory")
