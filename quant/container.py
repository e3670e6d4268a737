"""A quantized model on disk, mapped: dense matrices, vectors, and a layer's experts as records."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from quant.checkpoint import read_json
from quant.errors import CheckpointError, ModelNotFound, UnsupportedError
from quant.formats import FORMATS, Matrix
from quant.large_pages import in_large_pages
from quant.layout import DENSE_FILE, RecordPart, expert_tensor
from quant.manifest import MANIFEST
from quant.manifest_file import AGAIN, read_manifest
from quant.plan import Plan
from quant.safetensors_file import TensorInfo, read_header

_PIECE = 16 << 20  # bytes read at a time


@dataclass(frozen=True)
class ExpertRecords:
    """A layer's experts: records [E, record_bytes] u8, mapped; each holds `parts` at their offsets.

    `mapping` and `offset` say which bytes of which map the records are, for advice to the operating system; `path` and
    `offset` where to read them without the map. `crc32` has the checksum of each.
    """

    layer: int
    records: np.ndarray
    parts: dict[str, RecordPart]
    mapping: mmap.mmap
    path: Path
    offset: int
    crc32: list[int]

    def check(self, expert: int, record: np.ndarray) -> None:
        """Raise CheckpointError unless `record` [record_bytes] u8 is what was written for this expert."""
        if zlib.crc32(record.data) != self.crc32[expert]:
            raise CheckpointError(
                f"{self.path}: expert {expert} of layer {self.layer} is damaged: its checksum differs",
                hint=f"moe show --verify lists everything that is damaged; {AGAIN}",
            )


class QuantizedModel:
    """An opened model folder; matrices are views of mapped files and cost nothing until they are read."""

    def __init__(self, path: Path, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self.manifest = manifest
        self._maps: dict[str, mmap.mmap] = {}
        self._own: memoryview | None = None
        self._tensors = {DENSE_FILE: self._header(DENSE_FILE)}
        for entry in manifest["experts"].values():
            self._tensors[entry["file"]] = self._header(entry["file"])

    def _header(self, file: str) -> dict[str, TensorInfo]:
        expected = self.manifest["files"].get(file, {}).get("bytes")
        path = self.path / file
        if not path.exists():
            raise CheckpointError(f"{file} is missing from {self.path}", hint=AGAIN)
        if path.stat().st_size != expected:
            raise CheckpointError(f"{file} is {path.stat().st_size} bytes, the manifest says {expected}", hint=AGAIN)
        return read_header(path)[0]

    @property
    def expert_layers(self) -> list[int]:
        """Layers that have routed experts, ascending."""
        return sorted(int(layer) for layer in self.manifest["experts"])

    @property
    def quantized(self) -> bool:
        """Whether any matrix is stored in fewer bits than its source had."""
        parts = [part for layer in self.manifest["experts"].values() for part in layer["parts"].values()]
        stored = {entry.get("format", "f32") for entry in [*self.manifest["dense"].values(), *parts]}
        return not stored <= {"f32", "bf16"}

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def check(self, plan: Plan) -> None:
        """Raise CheckpointError unless every tensor of the plan is described in its shape: kernels trust shapes."""
        for dense in plan.dense:
            entry = self.manifest["dense"].get(dense.name, {})
            if entry.get("shape") != list(dense.shape) or ("format" in entry) != (dense.kind == "matrix"):
                raise _contradiction(f"{dense.kind} {dense.name!r}", entry.get("shape"), list(dense.shape))
        for layer in plan.experts:
            entry = self.manifest["experts"].get(str(layer.layer), {"parts": {}})
            found = entry.get("n_experts"), {n: (p["rows"], p["cols"]) for n, p in entry["parts"].items()}
            expected = layer.n_experts, {part.name: part.shape for part in layer.parts}
            if found != expected:
                raise _contradiction(f"layer {layer.layer}'s experts", found, expected)

    def matrix(self, name: str) -> Matrix:
        """A dense matrix by its name in the model."""
        entry, stored = self._dense(name)
        if "format" not in entry:
            raise CheckpointError(f"{MANIFEST}: {name!r} is no matrix", hint=AGAIN)
        rows, cols = entry["shape"]
        form = FORMATS[entry["format"]]
        tiles = stored.reshape(-1, form.tile_bytes(cols)) if stored.size == form.matrix_bytes(rows, cols) else None
        if tiles is None:
            raise CheckpointError(f"{DENSE_FILE}: {name!r} is not {rows} x {cols} in {form.name}", hint=AGAIN)
        return Matrix(form, rows, cols, tiles)

    def vector(self, name: str) -> np.ndarray:
        """A small tensor in its own shape, f32."""
        entry, stored = self._dense(name)
        shape = entry["shape"]
        if stored.size != 4 * prod(shape):
            raise CheckpointError(f"{DENSE_FILE}: {name!r} is not {shape} in float32", hint=AGAIN)
        return np.frombuffer(stored.tobytes(), "<f4").reshape(shape)

    def _dense(self, name: str) -> tuple[dict[str, Any], np.ndarray]:
        entry = self.manifest["dense"].get(name)
        info = self._tensors[DENSE_FILE].get(name)
        if entry is None or info is None:
            raise CheckpointError(f"{DENSE_FILE} holds no tensor {name!r}", hint=AGAIN)
        if self._every_token(entry):
            if self._own is not None:
                return entry, np.frombuffer(self._own, np.uint8, info.bytes, info.offset)
            in_large_pages(self._map(info.file), info.offset, info.bytes)
        return entry, self._bytes(info)

    @staticmethod
    def _every_token(entry: dict[str, Any]) -> bool:
        """Whether a token reads all of a dense tensor: of an embedding it reads one row."""
        return "format" in entry and entry["role"] != "embedding"

    @property
    def dense_bytes(self) -> int:
        """Memory of the dense weights without the embedding."""
        stored = self._tensors[DENSE_FILE]
        return sum(stored[name].bytes for name, entry in self._dense_entries() if entry["role"] != "embedding")

    def _dense_entries(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, entry in self.manifest["dense"].items():
            if name not in self._tensors[DENSE_FILE] or "role" not in entry:
                raise CheckpointError(f"{DENSE_FILE} holds no tensor {name!r}", hint=AGAIN)
            yield name, entry

    def keep_dense(self) -> None:
        """Copy the matrices that every token reads into memory of their own, for `matrix` to hand out from now on.

        Mapped pages are the first to go when memory runs short, and are counted twice where files are cached.
        Raises CheckpointError where they can't be read.
        """
        path = self.path / DENSE_FILE
        memory = mmap.mmap(-1, self.manifest["files"][DENSE_FILE]["bytes"], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        in_large_pages(memory)
        own = memoryview(memory)
        try:
            with path.open("rb", buffering=0) as file:
                for name, entry in self._dense_entries():
                    if self._every_token(entry):
                        info = self._tensors[DENSE_FILE][name]
                        _read(file, info.offset, own[info.offset : info.offset + info.bytes])
        except OSError as error:
            raise CheckpointError(f"{DENSE_FILE}: {error.strerror or error}", hint=AGAIN) from error
        self._own = own.toreadonly()

    def let_go(self) -> None:
        """Give up the pages of the mapped dense file that were touched; they come back when they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map(self.path / DENSE_FILE).madvise(mmap.MADV_DONTNEED)

    def expert_layer(self, layer: int) -> ExpertRecords:
        """A layer's expert records."""
        entry = self.manifest["experts"].get(str(layer))
        if entry is None:
            raise CheckpointError(f"{MANIFEST}: no experts for layer {layer}", hint=AGAIN)
        info = self._tensors[entry["file"]].get(expert_tensor(layer))
        shape = entry["n_experts"], entry["record_bytes"]
        if info is None or info.shape != shape:
            raise CheckpointError(f"{entry['file']}: no records of shape {list(shape)}", hint=AGAIN)
        parts = {name: RecordPart.from_json(part) for name, part in entry["parts"].items()}
        records = self._bytes(info).reshape(shape)
        return ExpertRecords(layer, records, parts, self._map(info.file), info.file, info.offset, entry["crc32"])

    def _bytes(self, info: TensorInfo) -> np.ndarray:
        return np.frombuffer(self._map(info.file), np.uint8, info.bytes, info.offset)

    def _map(self, file: Path) -> mmap.mmap:
        if file.name not in self._maps:
            with file.open("rb") as opened:
                self._maps[file.name] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file.name]

    def forget_pages(self) -> None:
        """Ask the operating system to drop the files from its page cache: what no process has touched is dropped.

        Raises UnsupportedError where it can't be asked.
        """
        if not hasattr(os, "posix_fadvise"):
            raise UnsupportedError("this operating system can't be asked to drop a file from its page cache")
        for file in self.manifest["files"]:
            with (self.path / file).open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Let the maps go; memory is returned when the last matrix that views them is gone."""
        self._maps.clear()
        self._own = None


def _contradiction(what: str, found: Any, expected: Any) -> CheckpointError:
    return CheckpointError(f"{MANIFEST}: {what}: {found}, config.json says {expected}", hint=AGAIN)


def _read(file: FileIO, at: int, into: memoryview) -> None:
    """Fill memory from a file, and leave no second copy in the system's cache."""
    for start in range(0, len(into), _PIECE):
        rest, offset = into[start : start + _PIECE], at + start
        size = len(rest)
        while rest:
            file.seek(offset + size - len(rest))
            count = file.readinto(rest)
            if not count:
                raise OSError(f"it ends {len(rest)} bytes too early")
            rest = rest[count:]
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)


def is_quantized(path: Path) -> bool:
    """Whether a folder holds a quantized model (whole or not) rather than a source checkpoint."""
    return (path / MANIFEST).exists()


def open_model(path: Path) -> QuantizedModel:
    """Open a quantized model's folder; raises ModelNotFound, CheckpointError or UnsupportedError naming the fault."""
    if not path.is_dir():
        raise ModelNotFound(f"{path} is not a folder")
    if not is_quantized(path):
        if (path / "config.json").exists():
            raise CheckpointError(f"{path} is a source checkpoint", hint=f"quantize it first: moe quantize {path}")
        raise CheckpointError(f"{path} holds no model: neither {MANIFEST} nor config.json")
    return QuantizedModel(path, read_json(path / "config.json"), read_manifest(path))
