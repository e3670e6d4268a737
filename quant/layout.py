"""How the plan's tensors lie in a quantized model's files: every offset is known before a byte is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from types import MappingProxyType
from typing import Any, Protocol

from quant.encoding import INT4
from quant.formats import FORMATS, Format
from quant.plan import Dense, ExpertLayer, Plan
from quant.recipe import Recipe

PAGE = 4096  # bytes; data and expert records begin at multiples, so that one unbuffered read fetches a record
DENSE_FILE = "dense.safetensors"


class Source(Protocol):
    """What sizes follow from, besides the plan and the recipe: a checkpoint, or only its config.json."""

    def dtype(self, name: str) -> str:
        """How the tensor `name` is stored: a safetensors dtype, or INT4."""
        ...


def expert_file(layer: int) -> str:
    """The file that holds a layer's experts."""
    return f"experts-{layer:03d}.safetensors"


def expert_tensor(layer: int) -> str:
    """The name of the tensor of a layer's records."""
    return f"layers.{layer}.experts"


@dataclass(frozen=True)
class RecordPart:
    """One matrix of an expert's record: `offset` bytes into it, `bytes` long."""

    format: Format
    rows: int
    cols: int
    offset: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {**asdict(self), "format": self.format.name}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> RecordPart:
        """From the manifest; raises KeyError or TypeError where it is not such an entry."""
        numbers = [entry[key] for key in ("rows", "cols", "offset", "bytes")]
        if not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise TypeError("rows, cols, offset and bytes must be whole numbers")
        part = cls(FORMATS[entry["format"]], *numbers)
        if part.bytes != part.format.matrix_bytes(part.rows, part.cols):
            raise TypeError(f"{part.rows} x {part.cols} in {part.format.name} is not {part.bytes} bytes")
        return part


def record_parts(layer: ExpertLayer, recipe: Recipe, source: Source) -> tuple[dict[str, RecordPart], int]:
    """(parts by name, bytes of a record rounded up to whole pages)."""
    parts, at = {}, 0
    for part in layer.parts:
        form = recipe.format(f"expert.{part.name}", source.dtype(part.tensor(0)), layer.layer)
        size = form.matrix_bytes(*part.shape)
        parts[part.name] = RecordPart(form, *part.shape, at, size)
        at += size
    return parts, -(-at // PAGE) * PAGE


def stored_shape(dense: Dense, recipe: Recipe, source: Source) -> tuple[str, tuple[int, ...], Format | None]:
    """(safetensors dtype, shape, format) of a dense tensor as it is stored; no format for vectors."""
    if dense.kind == "vector":
        return "F32", dense.shape, None
    rows, cols = dense.shape
    dtype = source.dtype(dense.source)
    if dense.heads is not None and dense.heads.transposed and dtype == INT4:
        dtype = "F32"  # the scales run along the source's rows, so that these codes can't be kept
    form = recipe.format(dense.role, dtype, dense.layer)
    tile_bytes = form.tile_bytes(cols)
    return "U8", (form.matrix_bytes(rows, cols) // tile_bytes, tile_bytes), form


def stored_bytes(dense: Dense, recipe: Recipe, source: Source) -> int:
    """The size of a dense tensor as it is stored."""
    _, shape, form = stored_shape(dense, recipe, source)
    return prod(shape) * (1 if form else 4)


def in_file_order(plan: Plan) -> list[Dense]:
    """Matrices first: they are whole lines of 64 bytes, so that each begins at one; vectors after them."""
    return sorted(plan.dense, key=lambda dense: dense.kind == "vector")


def dense_header(plan: Plan, recipe: Recipe, source: Source) -> tuple[bytes, list[int]]:
    """(header, bytes of each tensor after it) of the file of dense tensors."""
    sizes = {}
    for dense in in_file_order(plan):
        dtype, shape, _ = stored_shape(dense, recipe, source)
        sizes[dense.name] = dtype, shape, stored_bytes(dense, recipe, source)
    return header(sizes), [size for _, _, size in sizes.values()]


def expert_header(layer: ExpertLayer, recipe: Recipe, source: Source) -> tuple[bytes, list[int]]:
    """(header, bytes of each record after it) of a layer's experts."""
    _, record_bytes = record_parts(layer, recipe, source)
    sizes = [record_bytes] * layer.n_experts
    return header({expert_tensor(layer.layer): ("U8", (layer.n_experts, record_bytes), sum(sizes))}), sizes


def file_bytes(plan: Plan, recipe: Recipe, source: Source) -> dict[str, int]:
    """The size of every file of weights, by name."""
    headers = {DENSE_FILE: dense_header(plan, recipe, source)}
    headers |= {expert_file(layer.layer): expert_header(layer, recipe, source) for layer in plan.experts}
    return {name: len(head) + sum(sizes) for name, (head, sizes) in headers.items()}


def header(
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
    metadata: Mapping[str, str] = MappingProxyType({"format": "moe"}),
    align: int = PAGE,
) -> bytes:
    """A safetensors header for name -> (dtype, shape, bytes), padded with spaces to a multiple of `align` bytes."""
    entries, at = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % align)
    return len(text).to_bytes(8, "little") + text
