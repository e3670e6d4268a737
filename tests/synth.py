"""Quantized model folders of any shape, written directly: without a checkpoint, and with experts that take no disk.

Weights are random enough to route tokens evenly and to keep every number finite, and repeat: a matrix is at most
256 rows drawn anew. With `sparse` the expert files are holes of their full length, which read as zeros: experts that
answer 0.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cpu_runtime import models
from quant import layout
from quant.checkpoint import INDEX
from quant.config_source import ConfigSource
from quant.formats import ROWS, Format
from quant.manifest import FORMAT_VERSION, MANIFEST, manifest
from quant.pack import pack_k4
from quant.plan import Dense, ExpertLayer, Plan
from quant.recipe import Recipe, load_recipe

DRAWN_ROWS = 256
_PIECE = 64 << 20  # bytes written at a time


def write_model(config: dict[str, Any], folder: Path, recipe: str = "int4", *, sparse: bool = False) -> Path:
    """Write a model with this config.json to a new folder and return it."""
    folder.mkdir(parents=True)
    family = models.find(config)
    plan, chosen = family.plan(family.read(config), ()), load_recipe(recipe)
    source = ConfigSource(config, plan)
    places = {dense.name: layout.DENSE_FILE for dense in plan.dense}
    _write_dense(source, plan, chosen, folder / layout.DENSE_FILE)
    crc32 = {layout.DENSE_FILE: [0] * len(plan.dense)}  # see below
    for layer in plan.experts:
        file = layout.expert_file(layer.layer)
        crc32[file] = _write_experts(source, layer, chosen, folder / file, sparse)
        places[layout.expert_tensor(layer.layer)] = file
    own = {"quant_method": "moe", "format_version": FORMAT_VERSION, "recipe": chosen.name}
    _write_json(folder / "config.json", {**config, "quantization_config": own})
    _write_json(folder / INDEX, {"metadata": {}, "weight_map": places})
    # Hashing a file of holes takes as long as hashing a file: these folders are not made to be verified.
    files = {p.name: {"bytes": p.stat().st_size, "sha256": ""} for p in sorted(folder.iterdir())}
    origin: Any = SimpleNamespace(dtype=source.dtype, bytes=0)
    _write_json(folder / MANIFEST, manifest(origin, plan, chosen, "synthetic", files, crc32))
    return folder


def _write_dense(source: Any, plan: Plan, recipe: Recipe, path: Path) -> None:
    ordered = [(dense, layout.stored_shape(dense, recipe, source)) for dense in layout.in_file_order(plan)]
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(layout.dense_header(plan, recipe, source)[0])
        for dense, (_, shape, form) in ordered:
            if form is None:
                file.write(_vector(dense, rng).tobytes())
                continue
            drawn = _drawn(min(DRAWN_ROWS, dense.shape[0]), dense.shape[1], rng) * np.float32(deviation(dense))
            _repeat(form.pack(drawn), shape[0], file)


def deviation(dense: Dense) -> float:
    """The standard deviation of a tensor's weights, such that experts are used evenly.

    Embeddings outweigh what layers add to them, which tokens have in common and which would send all of them to the
    same experts; biases of routers, which prefer some, are 0.
    """
    if dense.kind == "vector":
        return 0.0 if dense.role == "router" else 0.1
    return 16.0 if dense.role == "embedding" else dense.shape[1] ** -0.5


def _vector(dense: Dense, rng: np.random.Generator) -> np.ndarray:
    """Near 1 for norms, small for biases and states."""
    near = 1.0 if dense.role == "norm" and not dense.name.endswith("bias") else 0.0
    return (near + deviation(dense) * rng.standard_normal(dense.shape)).astype(np.float32)


def _drawn(rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((rows, cols), np.float32)


def _repeat(drawn: np.ndarray, tiles: int, file: Any) -> None:
    """Write the drawn tiles again and again, `tiles` in all."""
    often = np.tile(drawn, (max(1, _PIECE // drawn.nbytes), 1))
    while tiles > 0:
        file.write(often[:tiles].data)
        tiles -= min(tiles, len(often))


def _write_experts(source: Any, layer: ExpertLayer, recipe: Recipe, path: Path, sparse: bool) -> list[int]:
    """Write a layer's experts and return the checksum of each record; two experts are drawn, the others repeat them."""
    parts, record_bytes = layout.record_parts(layer, recipe, source)
    head, sizes = layout.expert_header(layer, recipe, source)
    records = [np.zeros(record_bytes, np.uint8)]
    if not sparse:
        rng = np.random.default_rng(layer.layer)
        records = [_record(parts, record_bytes, rng) for _ in range(2)]
    sums = [zlib.crc32(record.data) for record in records]
    with path.open("wb") as file:
        file.write(head)
        if sparse:
            file.truncate(len(head) + sum(sizes))
        else:
            for expert in range(layer.n_experts):
                file.write(records[expert % len(records)].data)
    return [sums[expert % len(records)] for expert in range(layer.n_experts)]


def _record(parts: dict[str, layout.RecordPart], record_bytes: int, rng: np.random.Generator) -> np.ndarray:
    record = np.zeros(record_bytes, np.uint8)
    for part in parts.values():
        tiles = _packed(part.format, part.rows, part.cols, rng)
        record[part.offset : part.offset + part.bytes] = np.resize(tiles, part.bytes)
    return record


def _packed(form: Format, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    rows = min(DRAWN_ROWS, -(-rows // ROWS) * ROWS)
    if form.name != "k4":
        return form.pack(_drawn(rows, cols, rng) * np.float32(cols**-0.5)).reshape(-1)
    codes = rng.integers(0, 256, (rows, cols // 2), np.uint8)
    scales = np.full((rows, cols // 32), np.float32(0.2 / cols**0.5).view(np.uint32) >> 16, np.uint16)
    out = np.zeros((rows // ROWS, form.tile_bytes(cols)), np.uint8)
    assert pack_k4(codes, scales, out)
    return out.reshape(-1)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
