"""`moe pull`: a checkpoint from the Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options, output


def pull(
    name: Annotated[str, typer.Argument(help="org/name[@revision], or the model's page.")],
    json: options.Json = False,
) -> None:
    """Download a checkpoint from the Hub.

    What is there already is not fetched again. The folder is printed on stdout. HF_HOME, HF_TOKEN, HF_ENDPOINT and
    their kin are honoured.
    """
    from cli import hub, store
    from cli.names import parse_hub_name
    from cpu_runtime import models
    from quant.checkpoint import read_json

    with output.busy(f"looking up {name}"):
        repository = hub.look_up(parse_hub_name(name))
        folder = hub.fetch(repository, hub.small_files(repository))
    models.find(read_json(folder / "config.json"))  # refused now rather than after hundreds of gigabytes

    files = hub.weight_files(repository, folder)
    missing = [file for file in files if hub.cached(repository, file) is None]
    total, needed = sum(file.size for file in files), sum(file.size for file in missing)
    output.say(
        f"{repository.name.repo} at {repository.commit[:8]}: {len(missing)} of {len(files)} weight files to fetch, "
        f"{output.size(needed)} ({output.size(total - needed)} present, {output.size(hub.free_bytes())} free)"
    )
    hub.check_room(needed)
    store.remember_source(repository.name.repo, repository.commit, folder)  # before, so that `moe list` shows a part
    with output.progress("pulling", total, done=total - needed) as advance:
        hub.fetch(repository, files, advance)
    if json:
        output.as_json(
            {"repo": repository.name.repo, "revision": repository.commit, "path": str(folder), "bytes": total}
        )
    else:
        output.line(str(folder))
    output.say(f"next: moe quantize {repository.name.repo}")
