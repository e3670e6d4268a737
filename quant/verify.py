"""Whether a quantized model's folder still holds the bytes that were written: all of it, read from the drive again."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from typing import Any

from quant.errors import CheckpointError
from quant.layout import DENSE_FILE
from quant.manifest import MANIFEST, seal_fault
from quant.manifest_file import read_manifest
from quant.safetensors_file import read_header
from quant.uncached import pieces

_PATIENCE = 0.1  # seconds between two reports of progress


def verify(folder: Path, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """A line for each file that differs from its checksum, naming the tensor or the expert; none where all is well.

    Files are read and hashed side by side, twice as many as there are cores, so that each core has one to hash while
    the drive reads for others. Raises CheckpointError where the manifest can't be read at all.
    """
    manifest = read_manifest(folder)
    seal = seal_fault((folder / MANIFEST).read_bytes(), manifest)
    faults = [f"{MANIFEST}: {seal}"] if seal else []
    files = manifest["files"]
    reading = _Reading(sum(entry["bytes"] for entry in files.values()), on_progress)
    found: dict[str, list[str]] = {}
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as threads:
        largest_first = sorted(files, key=lambda name: -files[name]["bytes"])
        work = {threads.submit(_differs, folder / name, files[name], reading): name for name in largest_first}
        try:
            for done in reading.finished(set(work)):
                name = work[done]
                fault = done.result()
                found[name] = [fault, *_damaged(folder, name, manifest)] if fault else []
        except BaseException:
            reading.stop.set()
            for future in work:
                future.cancel()
            raise
    return faults + [line for name in files for line in found[name]]


class _Reading:
    """Bytes that all threads have read, told to the caller from the caller's own thread."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None]) -> None:
        self.stop = Event()
        self._total, self._on_progress = total, on_progress
        self._done, self._lock = 0, Lock()

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        with self._lock:
            self._done += count

    def finished(self, left: set[Future[str | None]]) -> Iterator[Future[str | None]]:
        """The files that are done, as they become so."""
        while left:
            done, left = wait(left, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
            self._on_progress(self._done, self._total)
            yield from done


def _differs(path: Path, entry: dict[str, Any], reading: _Reading) -> str | None:
    """What is wrong with a file, if anything is."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{path.name}: {size} bytes, the manifest says {entry['bytes']}"
        for piece in pieces(path):
            if reading.stop.is_set():
                return None
            digest.update(piece)
            reading.add(len(piece))
    except OSError as error:
        return f"{path.name}: {error.strerror or error}"
    return None if digest.hexdigest() == entry["sha256"] else f"{path.name}: its checksum differs from the manifest's"


def _damaged(folder: Path, file: str, manifest: dict[str, Any]) -> Iterator[str]:
    """The tensors or experts of a damaged file that are damaged themselves, as far as they have checksums."""
    layers = {entry["file"]: (int(layer), entry) for layer, entry in manifest["experts"].items()}
    if file != DENSE_FILE and file not in layers:
        return
    try:
        header = read_header(folder / file)[0]
        if file == DENSE_FILE:
            for name, entry in manifest["dense"].items():
                info = header.get(name)
                if info is None:
                    yield f"{file}: it holds no tensor {name!r}"
                elif "crc32" in entry and _crc32(info.file, info.offset, info.bytes) != entry["crc32"]:
                    yield f"{file}: tensor {name!r} is damaged"
            return
        layer, entry = layers[file]
        start = next(iter(header.values())).offset
        for expert, expected in enumerate(entry["crc32"]):
            if _crc32(folder / file, start + expert * entry["record_bytes"], entry["record_bytes"]) != expected:
                yield f"{file}: expert {expert} of layer {layer} is damaged"
    except CheckpointError as error:
        yield f"{error}; what it holds can't be told apart"
    except OSError as error:
        yield f"{file}: {error.strerror or error}"


def _crc32(path: Path, start: int, size: int) -> int:
    value = 0
    for piece in pieces(path, start, size):
        value = zlib.crc32(piece, value)
    return value
