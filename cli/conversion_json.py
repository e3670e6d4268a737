"""What `--json` says of a conversion, whether its source was here or came meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import sizes

if TYPE_CHECKING:
    from quant.preview import Preview
    from quant.recipe import Recipe


def of_plan(target: Path, recipe: Recipe, planned: Preview) -> dict[str, Any]:
    """Of one that would make the folder `target`."""
    return _facts(target, {"name": recipe.name, "formats": recipe.formats}, planned, made=False, report=None)


def of_model(folder: Path) -> dict[str, Any]:
    """Of the one that made a folder, with its report."""
    from quant.manifest_file import read_manifest
    from quant.preview import of_tensors
    from quant.report import read_report

    found = read_manifest(folder)
    was_planned = of_tensors(found["dense"], found["experts"], found["source"]["bytes"])
    return _facts(folder, found["recipe"], was_planned, made=True, report=read_report(folder))


def _facts(
    folder: Path, recipe: dict[str, Any], planned: Preview, *, made: bool, report: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "path": str(folder),
        "made": made,
        "recipe": recipe,
        "source_bytes": planned.source_bytes,
        "output_bytes": planned.output_bytes,
        "peak_bytes": planned.peak_bytes,
        "roles": [sizes.as_json(role) for role in planned.roles],
        "report": report,
    }
