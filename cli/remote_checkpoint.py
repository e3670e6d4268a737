"""A checkpoint on the Hub, by the headers of its shards: the shapes of all tensors for a thousandth of their bytes.

So a model that can't be converted is refused, and what it becomes is known to the byte, before its weights are
fetched. Headers are not verified yet; that is done when the shard has come.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cli import hub, hub_cache
from cli.hub_http import pieces
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter
from quant.arriving import ArrivingCheckpoint, Shard
from quant.checkpoint import INDEX, held_by, read_json, tensors_by_file
from quant.safetensors_file import TensorInfo, header_bytes, parse_header, read_header

_FIRST = 1 << 16  # bytes, more than most headers have
_AT_ONCE = 8


def open_remote(repository: Repository, folder: Path, partial: Path, meter: Meter) -> ArrivingCheckpoint:
    """The checkpoint whose small files are in `folder` and whose shards come to `partial`, or are in the Hub's cache.

    Raises CheckpointError for an index or a header that is none, and what `transfer.download` does.
    """
    files = hub.weight_files(repository, folder)
    cached = {file.name: hub_cache.found(repository, file) for file in files}
    places = {file.name: cached[file.name] or partial / file.key for file in files}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            held = list(threads.map(lambda file: _tensors(repository, file, places[file.name], meter), files))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    found = {file.name: tensors for file, tensors in zip(files, held, strict=True)}
    if (folder / INDEX).exists():
        names = tensors_by_file(read_json(folder / INDEX))
        found = {file: held_by(file, names[file], tensors) for file, tensors in found.items()}
    shards = [
        Shard(file.name, file.key, places[file.name], cached[file.name] is not None, found[file.name]) for file in files
    ]
    return ArrivingCheckpoint(folder, read_json(folder / "config.json"), shards, partial)


def _tensors(repository: Repository, file: RemoteFile, path: Path, meter: Meter) -> dict[str, TensorInfo]:
    """The header of a file, as if it were at its path; read from there where it is."""
    if path.exists():
        return read_header(path)[0]
    beginning = b"".join(pieces(repository, file, 0, min(_FIRST, file.size), meter))
    named = Path(file.name)  # for messages: the path may be a checksum
    length = header_bytes(named, beginning, file.size)
    beginning += b"".join(pieces(repository, file, len(beginning), 8 + length, meter))
    meter.again(len(beginning))  # they will come again with the rest
    tensors = parse_header(named, beginning[8 : 8 + length], file.size)[0]
    return {name: info._replace(file=path) for name, info in tensors.items()}
