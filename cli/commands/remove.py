"""`moe rm`: delete models."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli import output


def remove(
    names: Annotated[list[str], typer.Argument(help="Names in the store, or pulled checkpoints (org/name).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete models and pulled checkpoints.

    Models go from the store, checkpoints from the Hub's cache.
    """
    from cli import hub_cache, store

    pulled = {note["repo"] for note in store.sources()}
    models = {name: store.find_any(name) for name in names if name not in pulled}
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Delete {', '.join(names)}?", err=True):
        return
    for name in names:
        if name in pulled:
            freed = hub_cache.delete(name)
            store.forget_source(name)
        else:
            freed = models[name].bytes
            store.delete(models[name])
        output.say(f"deleted {name}, {output.size(freed)}")
