"""A source checkpoint on disk: shards found through the index, read a range of rows at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quant.encoding import Encoding, Int4, Plain, find
from quant.errors import CheckpointError, ModelNotFound, UnsupportedError
from quant.not_finite import NotFinite
from quant.quantization_config import QuantizationConfig
from quant.safetensors_file import AGAIN, LARGEST_HEADER, TensorInfo, is_file_name, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """Every tensor of a model folder by name; nothing is read until rows are asked for.

    Files are read with positioned reads rather than mapped: a conversion passes over hundreds of gigabytes once, and
    mapped pages would count as this process's memory and push out what others need.
    """

    def __init__(self, path: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
        self.path = path
        self.config = config
        self._tensors = tensors
        self._quantization = QuantizationConfig(config)
        self._files: dict[Path, int] = {}

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Open a folder; raises ModelNotFound where there is none, CheckpointError naming whatever is wrong inside."""
        if not path.is_dir():
            raise ModelNotFound(f"{path} is not a folder")
        config = read_json(path / "config.json")
        index = path / INDEX
        if index.exists():
            tensors = _through_index(path, read_json(index))
        elif (path / SINGLE).exists():
            tensors = read_header(path / SINGLE)[0]
        else:
            raise CheckpointError(f"{path}: neither {INDEX} nor {SINGLE}", hint=AGAIN)
        return cls(path, config, tensors)

    @property
    def names(self) -> Sequence[str]:
        """Every tensor's name."""
        return list(self._tensors)

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.bytes for tensor in self._tensors.values())

    @property
    def files(self) -> list[Path]:
        """Every file that holds a tensor, sorted."""
        return sorted({tensor.file for tensor in self._tensors.values()})

    def encoding(self, name: str) -> Encoding:
        """How a matrix or vector is stored, by its name without quantization; raises what `encoding.find` raises."""
        return find(name, self._tensors, self._quantization)

    def dtype(self, name: str) -> str:
        """What `encoding` says that recipes go by."""
        return self.encoding(name).dtype

    def values(self, name: str) -> np.ndarray:
        """A whole tensor in its own shape, f32: for small ones, which are stored plainly."""
        encoding = self.encoding(name)
        if not isinstance(encoding, Plain):
            raise UnsupportedError(
                f"tensor {name!r} is {encoding.dtype}; this version reads vectors that are stored plainly"
            )
        return encoding.values(self._read)

    def rows(
        self, name: str, start: int, stop: int, expert: int | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Rows start..stop of a matrix [R, C], or of one expert's in a fused [E, R, C]: -> [stop - start, C] f32."""
        encoding = self.encoding(name)
        if out is None:
            out = np.empty((stop - start, encoding.shape[-1]), np.float32)
        encoding.rows(self._read, start, stop, expert or 0, out)
        return out

    def int4_rows(self, name: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of an INT4 matrix as stored, see `Int4.raw`."""
        encoding = self.encoding(name)
        assert isinstance(encoding, Int4)
        return encoding.raw(self._read, start, stop)

    def not_finite(self, name: str, expert: int | None = None) -> NotFinite | None:
        """What of a matrix, or of one expert's in a fused one, is not a finite number."""
        return self.encoding(name).not_finite(self._read, expert or 0)

    def _read(self, info: TensorInfo, start: int, size: int) -> np.ndarray:
        assert 0 <= start <= start + size <= info.bytes
        raw = np.empty(size, np.uint8)
        filled, view = 0, raw.data
        while filled < size:
            got = os.preadv(self._descriptor(info.file), [view[filled:]], info.offset + start + filled)
            if got == 0:
                raise CheckpointError(f"{info.file.name} ended within tensor {info.name!r}", hint=AGAIN)
            filled += got
        return raw

    def _descriptor(self, file: Path) -> int:
        if file not in self._files:
            self._files[file] = os.open(file, os.O_RDONLY)
        return self._files[file]

    def close(self) -> None:
        """Close the files that were read."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; raises CheckpointError naming the file, also where it is far too large for one."""
    try:
        size = path.stat().st_size
        if size > LARGEST_HEADER:
            raise CheckpointError(f"{path.name}: {size} bytes are no {path.stem}", hint=AGAIN)
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} is missing from {path.parent}", hint=AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: {error}", hint=AGAIN) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected an object, found {type(value).__name__}", hint=AGAIN)
    return value


def tensors_by_file(index: dict[str, Any]) -> dict[str, list[str]]:
    """Shard -> tensors in it, as an index has them; raises CheckpointError where it is none, or leads elsewhere."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{INDEX}: 'weight_map' must map tensors to files", hint=AGAIN)
    files: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        files.setdefault(file, []).append(name)
    for file in files:
        if not is_file_name(file):
            raise CheckpointError(f"{INDEX} names the file {file!r}, which is outside the model's folder")
    return files


def held_by(file: str, names: Iterable[str], header: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The tensors that an index puts in a file; raises CheckpointError where its header lacks one."""
    for name in names:
        if name not in header:
            raise CheckpointError(f"{INDEX} puts tensor {name!r} in {file}, which does not hold it", hint=AGAIN)
    return {name: header[name] for name in names}


def _through_index(path: Path, index: dict[str, Any]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for file, names in tensors_by_file(index).items():
        if not (path / file).exists():
            raise CheckpointError(f"{INDEX} names {file}, which is missing from {path}", hint=AGAIN)
        tensors |= held_by(file, names, read_header(path / file)[0])
    return tensors
