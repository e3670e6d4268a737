"""Checkpoints made on the spot, sound and broken."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from quant.checkpoint import INDEX
from tests.conftest import DEMO


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    """(header, everything after it) of a safetensors file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write_safetensors(path: Path, header: dict[str, Any], data: bytes | bytearray) -> None:
    """A file with this header, however wrong."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def copy_of(source: Path, to: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(source, to))


def resharded(source: Path, to: Path, shards: int, apart: str = "nothing") -> Path:
    """The same checkpoint in so many shards, its tensors dealt out at random, so that hardly any are with their kin.

    Tensors whose names begin with `apart` have the last shard for themselves.
    """
    to.mkdir()
    for file in source.iterdir():
        if file.suffix not in (".safetensors", ".npz") and file.name != INDEX:
            shutil.copy(file, to)
    entries: dict[str, tuple[dict[str, Any], bytes]] = {}
    for file in sorted(source.glob("*.safetensors")):
        header, data = header_of(file)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            entries[name] = entry, data[start:stop]
    own = [name.startswith(apart) for name in entries]
    home = np.random.default_rng(7).permutation(np.arange(len(entries)) % (shards - any(own)))
    home[own] = shards - 1
    weight_map = {}
    for n in range(shards):
        file = to / f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
        held, whole = {}, b""
        for (name, (entry, data)), place in zip(entries.items(), home, strict=True):
            if place == n:
                held[name] = {**entry, "data_offsets": [len(whole), len(whole) + len(data)]}
                whole += data
                weight_map[name] = file.name
        write_safetensors(file, held, whole)
    (to / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return to


def copy_of_demo(to: Path) -> Path:
    """The demo checkpoint."""
    return copy_of(DEMO, to)


def change_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file's object; None deletes."""
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


def bf16(values: np.ndarray) -> bytes:
    """Values as bf16 bytes, cut short."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def poisoned(source: Path, at: dict[str, list[int]], bits: bytes) -> None:
    """Write `bits` at these elements of these tensors."""
    for path in source.glob("*.safetensors"):
        header, data = header_of(path)
        with path.open("r+b") as file:
            start = path.stat().st_size - len(data)
            for name in at.keys() & header.keys():
                for element in at[name]:
                    file.seek(start + header[name]["data_offsets"][0] + element * len(bits))
                    file.write(bits)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
