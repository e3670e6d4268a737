"""The manifest: what each stored tensor is, and a checksum of every file and every expert record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quant import layout
from quant.checkpoint import Checkpoint
from quant.plan import Plan
from quant.recipe import Recipe

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def manifest(
    checkpoint: Checkpoint,
    plan: Plan,
    recipe: Recipe,
    source: str,
    files: dict[str, dict[str, Any]],
    crc32: dict[str, list[int]],
) -> dict[str, Any]:
    """The manifest's JSON object; see `quant/FORMAT.md` for its keys."""
    dense, experts = tensors(plan, recipe, checkpoint)
    for entry in experts.values():
        entry["crc32"] = crc32[entry["file"]]
    return {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": recipe.name, "formats": recipe.formats},
        "source": {"name": source or checkpoint.path.name, "bytes": checkpoint.bytes},
        "files": files,
        "dense": dense,
        "experts": experts,
    }


def tensors(plan: Plan, recipe: Recipe, source: layout.Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """(dense, experts): what the manifest says of every tensor, but for the checksums."""
    dense: dict[str, Any] = {}
    for tensor in plan.dense:
        _, _, form = layout.stored_shape(tensor, recipe, source)
        entry: dict[str, Any] = {"role": tensor.role, "source": tensor.source, "shape": list(tensor.shape)}
        if tensor.heads is not None:
            entry["heads"] = asdict(tensor.heads)
        dense[tensor.name] = entry if form is None else {**entry, "format": form.name}
    experts: dict[str, Any] = {}
    for layer in plan.experts:
        parts, record_bytes = layout.record_parts(layer, recipe, source)
        experts[str(layer.layer)] = {
            "file": layout.expert_file(layer.layer),
            "n_experts": layer.n_experts,
            "record_bytes": record_bytes,
            "parts": {name: part.to_json() for name, part in parts.items()},
        }
    return dense, experts
