"""`moe pull`: a checkpoint from the Hub, as it is, or quantized as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output, recipe_choice

if TYPE_CHECKING:
    from cli.hub_listing import Repository
    from cli.meter import Meter
    from cli.names import HubName
    from cli.pull_plan import Pull
    from cli.recipe_choice import Choice


def pull(
    name: Annotated[str, typer.Argument(help="org/name[@revision], or the model's page.")],
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize", "-q", help="A recipe (int4, ...): quantize it as it comes, a shard on disk at a time."
        ),
    ] = None,
    bpw: options.BitsPerWeight = None,
    size: options.Size = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="For a quantized model: a name, or a folder with a slash.")
    ] = None,
    stats: options.Stats = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it needs.")] = False,
    json: options.Json = False,
) -> None:
    """Download a checkpoint from the Hub.

    What it needs is shown first. Run it again after a kill or a cut: it goes on where it was. A model that was
    uploaded quantized goes straight into the store. The folder is printed on stdout. HF_HOME, HF_TOKEN and their kin
    are honoured.
    """
    from cli import hub
    from cli.meter import Meter
    from cli.names import parse_hub_name
    from quant.errors import ModelNotFound

    meter = Meter(say=output.say)
    choice = recipe_choice.choice("--quantize", quantize, bpw, size, stats)
    asked = parse_hub_name(name)
    wanted = _pinned(asked, choice, out)
    with output.busy(f"looking up {name}"):
        try:
            repository = hub.look_up(wanted, output.say)
        except ModelNotFound as error:
            if wanted == asked:
                raise
            raise ModelNotFound(
                f"{wanted} can't be had any more, which a stopped pull was made from",
                hint="delete what it left with moe rm, and pull again",
            ) from error
        way = _way(repository, choice, out, meter)
    facts: dict[str, Any] = {"repo": repository.name.repo, "revision": repository.commit}
    path = way.done()
    if path is None:
        needs = way.plan()
        needs.show(repository)
        needs.check_room()
        facts["plan"] = needs.to_json()
        if not dry_run:
            path = way.run()
    else:
        output.say(f"{repository.name.repo} at {repository.commit[:8]} is here already")
    if json:
        facts |= {"path": path and str(path), "received": meter.received, "twice": meter.twice}
        output.as_json(facts | way.conversion())
    elif path:
        output.line(str(path))
    if path:
        if meter.received:
            output.say(f"{output.size(meter.received)} fetched, {output.size(meter.twice)} of it a second time")
        output.say(f"next: {way.next_step}")


def _pinned(wanted: HubName, choice: Choice | None, out: str | None) -> HubName:
    """What to look up: a stopped run goes on with the commit that it began with."""
    if choice is None:
        return wanted
    from cli import store, stream_pull

    return stream_pull.pinned(wanted, store.target(out, wanted.repo, choice.name))


def _way(repository: Repository, choice: Choice | None, out: str | None, meter: Meter) -> Pull:
    """How this repository is pulled, its small files fetched."""
    from cli import hub, store
    from cli.resume import pull_command
    from quant.errors import UsageError

    folder = hub.fetch(repository, hub.small_files(repository), meter)
    ready = hub.is_ready_made(folder)
    if ready and choice:
        raise UsageError(f"{repository.name} is quantized already", hint=f"moe pull {repository.name}")
    if out and not ready and not choice:
        raise UsageError(
            "--out is for quantized models", hint="add --quantize int4; a checkpoint goes to the Hub's cache (HF_HOME)"
        )
    resume = pull_command(f"{repository.name.repo}@{repository.commit}", choice, out)
    if choice:
        from cli.stream_pull import StreamPull

        target = store.target(out, repository.name.repo, choice.name)
        return StreamPull(repository, folder, choice, target, meter, resume)
    if ready:
        from cli.ready_made import ReadyMade

        return ReadyMade(repository, folder, store.target(out, repository.name.repo), meter, resume)
    from cli.plain_pull import PlainPull

    return PlainPull(repository, folder, meter)
