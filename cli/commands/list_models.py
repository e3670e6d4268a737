"""`moe list`: what is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli import options, output


def list_models(json: options.Json = False) -> None:
    """List models and pulled checkpoints.

    Of one that was stopped on its way, the command that goes on with it is shown too.
    """
    from cli import store

    models = [_model(model) for model in store.stored()]
    sources = [_source(note) for note in store.sources()]
    if json:
        output.as_json({"models": models, "sources": sources})
        return
    rows = [
        [
            model["name"],
            str(model["recipe"] or "") if model["complete"] else model["state"],
            output.size(model["bytes"]),
            model["modified"][:16].replace("T", " "),
        ]
        for model in models
    ]
    rows += [[note["repo"], note["state"], output.size(note["bytes"]), note["revision"][:8]] for note in sources]
    if not rows:
        output.say("there is no model here yet; try: moe demo, or moe pull ORG/NAME")
        return
    output.table(["NAME", "RECIPE", "SIZE", "MODIFIED"], rows)
    for one in [*models, *sources]:
        if not one["complete"] and one["resume"]:
            output.say(f"{one.get('name') or one['repo']} is not whole; to go on: {one['resume']}")


def _model(model: Any) -> dict[str, Any]:
    begun = model.unfinished
    found = {
        "name": model.name,
        "recipe": model.manifest.get("recipe", {}).get("name"),
        "bytes": model.bytes,
        "modified": model.modified.isoformat(timespec="seconds"),
        "complete": model.complete,
        "path": str(model.path),
    }
    if begun is None:
        return found
    share = f", {100 * begun.done // begun.total}% done" if begun.total else ""
    state = f"being made now{share}" if begun.running else f"stopped{share}"
    resume = "" if begun.running else begun.resume or "the command that began it"
    return {**found, "state": state, "resume": resume}


def _source(note: dict[str, str]) -> dict[str, Any]:
    from cli import store

    folder = Path(note["path"])
    missing = store.missing_shards(folder)
    facts = {**note, "bytes": store.folder_bytes(folder), "complete": not missing}
    if not missing:
        return {**facts, "state": "source"}
    resume = f"moe pull {note['repo']}@{note['revision']}"
    return {**facts, "state": f"source, {len(missing)} files missing", "resume": resume}
