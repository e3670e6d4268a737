"""A quantized model on disk, mapped: dense matrices, vectors, and a layer's experts as records."""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from quant.checkpoint import read_json
from quant.errors import CheckpointError, ModelNotFound, UnsupportedError
from quant.formats import FORMATS, Matrix
from quant.layout import DENSE_FILE, RecordPart, expert_tensor
from quant.manifest import FORMAT_VERSION, MANIFEST
from quant.safetensors_file import TensorInfo, read_header

AGAIN = "quantize it again, or pull it again if it came ready-made"
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
                f"{self.path.name}: expert {expert} of layer {self.layer} is damaged: its checksum differs",
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

    def matrix(self, name: str) -> Matrix:
        """A dense matrix by its name in the model."""
        entry, stored = self._dense(name)
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
        if stored.size != 4 * int(np.prod(shape)):
            raise CheckpointError(f"{DENSE_FILE}: {name!r} is not {shape} in float32", hint=AGAIN)
        return np.frombuffer(stored.tobytes(), "<f4").reshape(shape)

    def _dense(self, name: str) -> tuple[dict[str, Any], np.ndarray]:
        entry = self.manifest["dense"].get(name)
        info = self._tensors[DENSE_FILE].get(name)
        if entry is None or info is None:
            raise CheckpointError(f"{DENSE_FILE} holds no tensor {name!r}", hint=AGAIN)
        if self._own is not None and self._every_token(entry):
            return entry, np.frombuffer(self._own, np.uint8, info.bytes, info.offset)
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
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
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
        try:
            parts = {name: RecordPart.from_json(part) for name, part in entry["parts"].items()}
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{MANIFEST}: experts of layer {layer}: {error}", hint=AGAIN) from error
        if any(part.offset + part.bytes > shape[1] for part in parts.values()):
            raise CheckpointError(f"{MANIFEST}: experts of layer {layer} reach beyond their record", hint=AGAIN)
        if len(entry["crc32"]) != shape[0]:
            raise CheckpointError(f"{MANIFEST}: not a checksum for each of layer {layer}'s experts", hint=AGAIN)
        records = self._bytes(info).reshape(shape)
        return ExpertRecords(layer, records, parts, self._map(info.file), info.file, info.offset, entry["crc32"])

    def _bytes(self, info: TensorInfo) -> np.ndarray:
        return np.frombuffer(self._map(info.file), np.uint8, info.bytes, info.offset)

    def _map(self, file: Path) -> mmap.mmap:
        if file.name not in self._maps:
            with file.open("rb") as opened:
                self._maps[file.name] = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[file.name]

    def verify(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Iterator[str]:
        """Read everything again and yield a line for each file or expert record whose checksum differs."""
        done = 0
        for file, entry in self.manifest["files"].items():
            digest = hashlib.sha256()
            try:
                with (self.path / file).open("rb") as opened:
                    while piece := opened.read(_PIECE):
                        digest.update(piece)
                        done += len(piece)
                        on_progress(done, self.bytes)
            except OSError as error:
                yield f"{file}: {error.strerror}"
                continue
            if digest.hexdigest() != entry["sha256"]:
                yield f"{file}: its checksum differs from the manifest's"
                yield from self._bad_records(file)

    def _bad_records(self, file: str) -> Iterator[str]:
        for layer, entry in self.manifest["experts"].items():
            if entry["file"] == file:
                records = self.expert_layer(int(layer)).records
                for expert, expected in enumerate(entry["crc32"]):
                    if zlib.crc32(records[expert].data) != expected:
                        yield f"{file}: expert {expert} of layer {layer} is damaged"

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


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a folder, of the shape it should have; raises CheckpointError or UnsupportedError."""
    manifest = read_json(path / MANIFEST)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise UnsupportedError(
            f"{path.name}: format_version is {version!r}, this version reads {FORMAT_VERSION}", hint="update moe"
        )
    fault = _fault(manifest)
    if fault:
        raise CheckpointError(f"{MANIFEST}: {fault}", hint=AGAIN)
    return manifest


def _fault(manifest: dict[str, Any]) -> str | None:
    """What is wrong with the shape of a manifest, which is as untrusted as any downloaded file."""
    for section in ("files", "dense", "experts"):
        entries = manifest.get(section)
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            return f"{section!r} must be an object of objects"
    for name, entry in manifest["files"].items():
        if Path(name).name != name or not _count(entry.get("bytes")) or not isinstance(entry.get("sha256"), str):
            return f"file {name!r} needs 'bytes' and 'sha256', and a name inside the folder"
    for name, entry in manifest["dense"].items():
        shape = entry.get("shape")
        if not isinstance(shape, list) or not all(map(_count, shape)):
            return f"tensor {name!r} has no valid shape"
        if "format" in entry and (entry["format"] not in FORMATS or len(shape) != 2):
            return f"tensor {name!r} has an unknown format"
    for layer, entry in manifest["experts"].items():
        sizes = _count(entry.get("n_experts")) and _count(entry.get("record_bytes"))
        listed = isinstance(entry.get("crc32"), list) and isinstance(entry.get("parts"), dict)
        if not layer.isdigit() or not sizes or not listed or entry.get("file") not in manifest["files"]:
            return f"experts of layer {layer!r} are not described"
    return None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 62
