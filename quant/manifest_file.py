"""Reading a manifest with every claim about sizes and shapes checked: it is as untrusted as any downloaded file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quant.checkpoint import read_json
from quant.errors import CheckpointError, UnsupportedError
from quant.formats import FORMATS, LINE
from quant.layout import PAGE, RecordPart
from quant.manifest import FORMAT_VERSION, MANIFEST
from quant.safetensors_file import is_file_name
from quant.statistics import is_calibration

AGAIN = "quantize it again, or pull it again if it came ready-made"
_LAYER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a folder, of the shape it should have; raises CheckpointError or UnsupportedError."""
    manifest = read_json(path / MANIFEST)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        older = isinstance(version, int) and version < FORMAT_VERSION
        raise UnsupportedError(
            f"{path.name}: format_version is {version!r}, this version reads {FORMAT_VERSION}",
            hint=AGAIN if older else "update moe",
        )
    fault = _fault(manifest)
    if fault:
        raise CheckpointError(f"{MANIFEST}: {fault}", hint=AGAIN)
    return manifest


def _fault(manifest: dict[str, Any]) -> str | None:
    """What is wrong with a manifest, if anything is."""
    for section in ("files", "dense", "experts"):
        entries = manifest.get(section)
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            return f"{section!r} must be an object of objects"
    for section in ("source", "recipe"):
        named = manifest.get(section)
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            return f"{section!r} must be an object with a 'name'"
    if "calibration" in manifest and not is_calibration(manifest["calibration"]):
        return "'calibration' must say which text a model read for the statistics, and their checksum"
    faults = [
        *(_file_fault(name, entry) for name, entry in manifest["files"].items()),
        *(_dense_fault(name, entry) for name, entry in manifest["dense"].items()),
        *(_experts_fault(layer, entry, manifest["files"]) for layer, entry in manifest["experts"].items()),
    ]
    return next(filter(None, faults), None)


def _file_fault(name: str, entry: dict[str, Any]) -> str | None:
    if not is_file_name(name) or not _count(entry.get("bytes")) or not isinstance(entry.get("sha256"), str):
        return f"file {name!r} needs 'bytes' and 'sha256', and a name inside the folder"
    return None


def _dense_fault(name: str, entry: dict[str, Any]) -> str | None:
    shape, form = entry.get("shape"), entry.get("format")
    if not isinstance(shape, list) or not all(map(_count, shape)) or not isinstance(entry.get("role"), str):
        return f"tensor {name!r} has no role, or no valid shape"
    if "format" in entry and (not isinstance(form, str) or form not in FORMATS or len(shape) != 2):
        return f"tensor {name!r} has an unknown format"
    return None


def _experts_fault(layer: str, entry: dict[str, Any], files: dict[str, Any]) -> str | None:
    where = f"experts of layer {layer!r}"
    n_experts, crc32 = entry.get("n_experts"), entry.get("crc32")
    record_bytes: Any = entry.get("record_bytes")
    file, parts = entry.get("file"), entry.get("parts")
    if not _LAYER.fullmatch(layer) or not isinstance(file, str) or file not in files:
        return f"{where} are in no file of the model"
    if not _count(n_experts) or not _count(record_bytes) or record_bytes % PAGE:
        return f"{where}: 'n_experts' and 'record_bytes' must be whole numbers, the latter of whole pages"
    if not isinstance(crc32, list) or len(crc32) != n_experts:
        return f"{where}: there is not a checksum for each of them"
    if not isinstance(parts, dict) or not parts:
        return f"{where} have no parts"
    for name, found in parts.items():
        try:
            part = RecordPart.from_json(found)
        except (KeyError, TypeError) as error:
            return f"{where}: part {name!r}: {error}"
        if part.offset % LINE or part.offset + part.bytes > record_bytes:
            return f"{where}: part {name!r} reaches beyond its record, or begins within a line"
    return None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62
