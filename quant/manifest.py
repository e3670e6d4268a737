"""The manifest: what each stored tensor is, and a checksum of every file and every expert record."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from quant import layout
from quant.checkpoint import Checkpoint
from quant.plan import Plan
from quant.recipe import Recipe

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
SEAL = "sha256"  # the manifest's last key
_NO_SEAL = "0" * 64


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
    for tensor, of_tensor in zip(layout.in_file_order(plan), crc32[layout.DENSE_FILE], strict=True):
        dense[tensor.name]["crc32"] = of_tensor
    for entry in experts.values():
        entry["crc32"] = crc32[entry["file"]]
    return {
        "format_version": FORMAT_VERSION,
        "recipe": {"name": recipe.name, "formats": recipe.formats},
        "source": {"name": source or checkpoint.path.name, "bytes": checkpoint.bytes},
        **({"calibration": recipe.calibration} if recipe.calibration else {}),
        "files": files,
        "dense": dense,
        "experts": experts,
        SEAL: _NO_SEAL,
    }


def sealed(text: bytes) -> bytes:
    """A manifest's JSON with its own checksum in place of the zeros that `manifest` left for it."""
    return text.replace(_NO_SEAL.encode(), hashlib.sha256(text).hexdigest().encode())


def seal_fault(text: bytes, manifest: dict[str, Any]) -> str | None:
    """What is wrong with a manifest's own checksum, if anything is; `text` is the file, `manifest` the object in it."""
    seal = manifest.get(SEAL)
    if not isinstance(seal, str) or len(seal) != len(_NO_SEAL):
        return f"it has no checksum of its own, {SEAL!r}"
    head, _, tail = text.rpartition(seal.encode(errors="replace"))
    if hashlib.sha256(head + _NO_SEAL.encode() + tail).hexdigest() != seal:
        return "it differs from its own checksum"
    return None


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
