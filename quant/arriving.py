"""A checkpoint whose shards come one at a time and go again: all headers are known, the bytes of some tensors are here.

A tensor that others need before it can be used, and whose shard has to go, waits in a small safetensors file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.checkpoint import Checkpoint
from quant.errors import CheckpointError
from quant.safetensors_file import AGAIN, TensorInfo, read_header
from quant.writer import FileWriter

WAITING = ".waiting"
_PIECE = 16 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Shard:
    """A file of the source: `name` in the index, `key` that identifies its content, `path` where it is when it is here.

    `keep` is for one that was here before, and is not ours to delete. `tensors` come from its header.
    """

    name: str
    key: str
    path: Path
    keep: bool
    tensors: dict[str, TensorInfo]

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.bytes for tensor in self.tensors.values())


class ArrivingCheckpoint(Checkpoint):
    """The tensors that the index names, each in the shard that holds it."""

    def __init__(self, path: Path, config: dict[str, Any], shards: Sequence[Shard], folder: Path) -> None:
        super().__init__(path, config, {name: info for shard in shards for name, info in shard.tensors.items()})
        self.shards = tuple(shards)
        self._folder = folder

    def check(self, shard: Shard) -> None:
        """Raise CheckpointError unless the header of a shard that has come is the one that was read ahead of it."""
        held = read_header(shard.path)[0]
        if any(held.get(name) != info for name, info in shard.tensors.items()):
            raise CheckpointError(f"{shard.name}: its header is not the one that was read before it came", hint=AGAIN)

    def keep(self, shard: Shard, names: Iterable[str]) -> None:
        """Copy tensors of a shard that is here to where they may wait without it; they are read from there."""
        held = [shard.tensors[name] for name in names]
        if not held:
            return
        with FileWriter(self._waiting(shard)) as file:
            file.write(_header(held))
            for tensor in held:
                for start in range(0, tensor.bytes, _PIECE):
                    file.write(self._read(tensor, start, min(_PIECE, tensor.bytes - start)).data)

    def let_go(self, shard: Shard) -> None:
        """Close a shard, delete it if it came for this, and read what waits of it from where it waits."""
        self.close()
        if not shard.keep:
            shard.path.unlink(missing_ok=True)
        waiting = self._waiting(shard)
        if waiting.exists():
            self._tensors.update(read_header(waiting)[0])

    def forget(self, shard: Shard) -> None:
        """Delete what waits of a shard."""
        self.close()
        self._waiting(shard).unlink(missing_ok=True)

    def _waiting(self, shard: Shard) -> Path:
        return self._folder / (shard.key + WAITING)


def _header(tensors: Iterable[TensorInfo]) -> bytes:
    entries, at = {}, 0
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.bytes],
        }
        at += tensor.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text
