"""Reading one safetensors file's header with every claim checked, because files are untrusted.

Format: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes without holes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from quant.errors import CheckpointError

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
LONGEST_NAME = 255  # bytes, what file systems take
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
AGAIN = "pull the model again"


class TensorInfo(NamedTuple):  # made in a third of a dataclass's time: a large checkpoint has 200 000
    """Where a tensor is: `offset` from the start of `file`, `bytes` long."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    bytes: int


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file; raises CheckpointError naming the file and the fault."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(header_bytes(path, file.read(8), size))
    except OSError as error:
        raise CheckpointError(f"{path.name}: {error.strerror or error}") from error
    return parse_header(path, raw, size)


def header_bytes(path: Path, first: bytes, size: int) -> int:
    """The length of the header, from the first 8 bytes of a file of `size`; raises CheckpointError."""
    length = int.from_bytes(first[:8], "little")
    if size < 8 or length > min(LARGEST_HEADER, size - 8):
        if first.startswith(LFS_POINTER[:8]):
            raise CheckpointError(
                f"{path.name} is a Git-LFS pointer, not the file it points to",
                hint="the repository was uploaded without its large files; choose another",
            )
        raise CheckpointError(f"{path.name}: the header claims {length} bytes, the file has {size}", hint=AGAIN)
    return length


def parse_header(path: Path, raw: bytes, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """What `read_header` returns, of the header's JSON and the size of the file, which need not be here."""
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name}: the header is not JSON ({error})", hint=AGAIN) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path.name}: the header is not an object", hint=AGAIN)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path.name}: __metadata__ is not an object", hint=AGAIN)
    tensors = {name: _tensor(path, name, entry, 8 + len(raw), size) for name, entry in header.items()}
    _check_cover(path, list(tensors.values()), 8 + len(raw), size)
    return tensors, metadata


def is_file_name(name: str) -> bool:
    """Whether a name from a download can be that of a file in its own folder: no path, and nothing a system refuses."""
    plain = name not in ("", ".", "..") and not set("/\\\0") & set(name)
    return plain and len(name.encode(errors="replace")) <= LONGEST_NAME and name.isprintable()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _wrong(path, name, "its entry is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _wrong(path, name, f"unknown dtype {dtype!r}")
    if not _whole_numbers(shape) or not _whole_numbers(offsets) or len(offsets) != 2:
        raise _wrong(path, name, "shape and data_offsets must be lists of whole numbers")
    begin, end = offsets
    expected = DTYPE_BYTES[dtype]
    for extent in shape:  # Python's integers do not overflow; the bound keeps them from growing without need
        expected *= extent
        if expected > size:
            break
    if end - begin != expected:
        raise _wrong(path, name, f"{shape} of {dtype} is {expected} bytes, data_offsets give {end - begin}")
    if start + end > size:
        raise _wrong(path, name, f"its data ends at byte {start + end}, the file has {size}: it is truncated")
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, end - begin)


def _wrong(path: Path, name: str, what: str) -> CheckpointError:
    return CheckpointError(f"{path.name}: tensor {name!r}: {what}", hint=AGAIN)


def _whole_numbers(value: Any) -> TypeGuard[list[int]]:
    # Without a Python loop, because a large checkpoint has 400 000 such lists; a bool is not an int here. The bound
    # is that of the format, and keeps messages short.
    return (
        isinstance(value, list)
        and set(map(type, value)) <= {int}
        and min(value, default=0) >= 0
        and max(value, default=0) < 1 << 63
    )


def _check_cover(path: Path, tensors: list[TensorInfo], start: int, size: int) -> None:
    at = start
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.bytes)):
        if tensor.offset != at:
            fault = "overlaps the one before it" if tensor.offset < at else "leaves a hole before it"
            raise CheckpointError(f"{path.name}: tensor {tensor.name!r} {fault}", hint=AGAIN)
        at += tensor.bytes
    if at != size:
        raise CheckpointError(f"{path.name}: tensors end at byte {at}, the file has {size}", hint=AGAIN)
