"""`moe list`: what is on this machine."""

from __future__ import annotations

from typing import Any

from cli import options, output


def list_models(json: options.Json = False) -> None:
    """List models and pulled checkpoints."""
    from pathlib import Path

    from cli import store

    models: list[dict[str, Any]] = [
        {
            "name": model.name,
            "recipe": model.manifest.get("recipe", {}).get("name"),
            "bytes": model.bytes,
            "modified": model.modified.isoformat(timespec="seconds"),
            "complete": model.complete,
            "path": str(model.path),
        }
        for model in store.stored()
    ]
    pulled: list[dict[str, Any]] = [
        {**note, "bytes": store.folder_bytes(Path(note["path"]))} for note in store.sources()
    ]
    if json:
        output.as_json({"models": models, "sources": pulled})
        return
    rows = [
        [
            str(model["name"]),
            str(model["recipe"] or "") if model["complete"] else "stopped half-way",
            output.size(model["bytes"]),
            str(model["modified"])[:16].replace("T", " "),
        ]
        for model in models
    ]
    rows += [[note["repo"], "source", output.size(note["bytes"]), note["revision"][:8]] for note in pulled]
    if rows:
        output.table(["NAME", "RECIPE", "SIZE", "MODIFIED"], rows)
    else:
        output.say("there is no model here yet; try: moe demo, or moe pull ORG/NAME")
