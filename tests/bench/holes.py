"""Checkpoints of holes: every tensor in its published shape and dtype, none of it on the disk, all of it zeros."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

from cpu_runtime import plan_for
from quant.checkpoint import INDEX
from quant.config_source import ConfigSource
from quant.encoding import FP8, INT4
from quant.safetensors_file import DTYPE_BYTES
from tests.checkpoints import write_safetensors

BLOCK = 128
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def tensors(config: dict[str, Any]) -> Tensors:
    """(dtype, shape) of every tensor, layer by layer as they are published."""
    plan = plan_for(config, ())
    source = ConfigSource(config, plan)
    found: Tensors = {}

    def add(name: str, shape: tuple[int, ...]) -> None:
        dtype = source.dtype(name)
        if dtype == INT4:
            found[name + "_packed"] = "I32", (shape[0], shape[1] // 8)
            found[name + "_scale"] = "BF16", (shape[0], shape[1] // 32)
            return
        found[name] = dtype, shape
        if dtype == FP8:
            found[name + "_scale_inv"] = "F32", (-(-shape[0] // BLOCK), -(-shape[1] // BLOCK))

    for dense in plan.dense:
        add(dense.source, dense.source_shape)
    for layer in plan.experts:
        for expert in range(layer.n_experts):
            for part in layer.parts:
                add(part.tensor(expert), part.shape)
    return found


def total(config: dict[str, Any]) -> int:
    """Bytes of all tensors."""
    return sum(prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in tensors(config).values())


def write(folder: Path, config: dict[str, Any], shard: int) -> Path:
    """A checkpoint in shards of about so many bytes; its new folder."""
    folder.mkdir()
    groups: list[Tensors] = [{}]
    at = 0
    for name, (dtype, shape) in tensors(config).items():
        size = prod(shape) * DTYPE_BYTES[dtype]
        if at + size > shard and groups[-1]:
            groups.append({})
            at = 0
        groups[-1][name] = dtype, shape
        at += size
    write_files(folder, groups)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_files(folder: Path, groups: Sequence[Tensors]) -> None:
    """A file of holes for each group of tensors, and their index."""
    places = {}
    for number, group in enumerate(groups):
        file, at = f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors", 0
        header: dict[str, Any] = {}
        for name, (dtype, shape) in group.items():
            size = prod(shape) * DTYPE_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            places[name] = file
            at += size
        write_safetensors(folder / file, header, b"")
        os.truncate(folder / file, (folder / file).stat().st_size + at)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
