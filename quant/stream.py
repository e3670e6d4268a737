"""From shards that come one at a time to a quantized model: make what is complete, drop the shard, ask for the next.

The result is what `convert` makes of the whole checkpoint, byte for byte. The disk holds the output, one shard and
the tensors that wait for others; a run that was stopped goes on with the first shard that is not noted in the journal.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from quant import layout
from quant.arriving import ArrivingCheckpoint, Shard
from quant.convert import Progress, ahead, building, finish
from quant.errors import CheckpointError
from quant.manifest import FORMAT_VERSION
from quant.plan import Plan, check
from quant.recipe import Recipe
from quant.stretches import Stretch, stretches
from quant.writer import TEMPORARY, Journal, sync_folder, write_error

_PIECE = 16 << 20  # bytes hashed at a time where there are no records


class Supply(Protocol):
    """Where shards come from."""

    def begin(self, shard: Shard) -> None:
        """Fetch a little of the shard that will be needed next, meanwhile."""

    def complete(self, shard: Shard) -> None:
        """Return when a shard is at its path, whole and verified."""


def convert_stream(
    checkpoint: ArrivingCheckpoint,
    plan: Plan,
    recipe: Recipe,
    out: Path,
    supply: Supply,
    *,
    source: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Write the quantized model to the new folder `out`; as `convert`, and raises what `supply` raises."""
    check(plan, checkpoint)
    with building(out) as folder:
        journal = Journal(folder, fingerprint(checkpoint, plan, recipe), source)
        _Stream(checkpoint, plan, recipe, folder, journal, on_progress).run(supply)
        finish(checkpoint, plan, recipe, folder, source, journal)
    return out


def fingerprint(checkpoint: ArrivingCheckpoint, plan: Plan, recipe: Recipe) -> str:
    """Identifies what is being made: only the same goes on with what is there."""
    shards = [(shard.name, shard.key) for shard in checkpoint.shards]
    parts = ("stream", FORMAT_VERSION, checkpoint.config, repr(plan), recipe.formats, shards)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def needed_shards(checkpoint: ArrivingCheckpoint, plan: Plan, recipe: Recipe) -> list[Shard]:
    """The shards that the output needs anything of, in the order in which they are taken up."""
    needed = {name for stretch in stretches(checkpoint, plan, recipe) for name in stretch.needs}
    return [shard for shard in checkpoint.shards if not needed.isdisjoint(shard.tensors)]


def peak_bytes(checkpoint: ArrivingCheckpoint, plan: Plan, recipe: Recipe, *, ahead: bool) -> int:
    """The most that the output, the shard at hand and waiting tensors ever take on disk together.

    `ahead`: half of the next shard too.
    """
    shards = needed_shards(checkpoint, plan, recipe)
    home = {name: n for n, shard in enumerate(shards) for name in shard.tensors}
    last: dict[str, int] = {}  # the shard after which a tensor is needed no longer
    for stretch in stretches(checkpoint, plan, recipe):
        for name in stretch.needs:
            last[name] = max(last.get(name, 0), *(home[n] for n in stretch.needs))
    comes, goes = [0] * len(shards), [0] * len(shards)
    for name, until in last.items():
        if home[name] < until:
            size = shards[home[name]].tensors[name].bytes
            comes[home[name]] += size
            goes[until] += size
    peak = waiting = 0
    sizes = [0 if shard.keep else shard.bytes for shard in shards]
    for size, following, more, less in zip(sizes, [*sizes[1:], 0], comes, goes, strict=True):
        waiting += more  # copied before the shard goes
        peak = max(peak, waiting + size + (following // 2 if ahead else 0))
        waiting -= less
    return peak + sum(layout.file_bytes(plan, recipe, checkpoint).values())


class _Stream:
    def __init__(
        self,
        checkpoint: ArrivingCheckpoint,
        plan: Plan,
        recipe: Recipe,
        folder: Path,
        journal: Journal,
        report: Callable[[Progress], None],
    ) -> None:
        self._checkpoint, self._folder, self._journal, self._report = checkpoint, folder, journal, report
        self._shards = needed_shards(checkpoint, plan, recipe)
        self._home = {name: shard.name for shard in self._shards for name in shard.tensors}
        self._pending = stretches(checkpoint, plan, recipe)
        self._heads = {layout.DENSE_FILE: layout.dense_header(plan, recipe, checkpoint)}
        self._heads |= {layout.expert_file(e.layer): layout.expert_header(e, recipe, checkpoint) for e in plan.experts}
        self._records = {
            layout.expert_file(e.layer): layout.record_parts(e, recipe, checkpoint)[1] for e in plan.experts
        }
        self._total = sum(stretch.size for stretch in self._pending)
        self._done = self._resumed = 0

    def run(self, supply: Supply) -> None:
        """Take up every shard that is not noted yet, and finish files as they become complete."""
        self._take_up()
        shards = [shard for shard in self._shards if shard.name not in self._journal.shards]
        for n, shard in enumerate(shards, 1):
            supply.complete(shard)
            self._checkpoint.check(shard)
            if n < len(shards):
                supply.begin(shards[n])
            self._convert(shard)
        self._seal()

    def _take_up(self) -> None:
        """Bring the folder to the state that the journal describes."""
        if self._journal.shards:
            for file in self._heads:
                if not self._path(file).exists():
                    raise CheckpointError(
                        f"{file} has gone from {self._folder}", hint="delete that folder and run the same command again"
                    )
        else:
            for file, (head, size) in self._heads.items():
                self._create(file, head, size)
            sync_folder(self._folder)
        for shard in self._shards:
            if shard.name in self._journal.shards:
                self._checkpoint.let_go(shard)
        self._pending = [stretch for stretch in self._pending if not self._arrived(stretch, "")]
        self._resumed = self._done = self._total - sum(stretch.size for stretch in self._pending)
        self._report(Progress("", self._done, self._total, self._resumed))
        self._forget()
        self._seal()

    def _create(self, file: str, head: bytes, size: int) -> None:
        try:
            with self._path(file).open("wb") as created:
                created.write(head)
                created.truncate(len(head) + size)
                created.flush()
                os.fsync(created.fileno())
        except OSError as error:
            raise write_error(error, self._path(file)) from error

    def _convert(self, shard: Shard) -> None:
        """Make what a shard completes, let wait what others need, and drop it."""
        ready = [stretch for stretch in self._pending if self._arrived(stretch, shard.name)]
        with _Outputs() as outputs:
            for stretch, at, data in ahead(_placed(ready)):
                outputs.write(self._path(stretch.file), at, data)
                self._done += len(data)
                self._report(Progress(stretch.file, self._done, self._total, self._resumed))
            outputs.sync()
        self._pending = [stretch for stretch in self._pending if not self._arrived(stretch, shard.name)]
        waiting = {name for stretch in self._pending for name in stretch.needs}
        self._checkpoint.keep(shard, [name for name in shard.tensors if name in waiting])
        self._journal.add_shard(shard.name)
        self._checkpoint.let_go(shard)
        self._forget()
        self._seal()

    def _arrived(self, stretch: Stretch, current: str) -> bool:
        """Whether all that a stretch needs is here, or was."""
        return all(self._home[n] == current or self._home[n] in self._journal.shards for n in stretch.needs)

    def _forget(self) -> None:
        """Delete what waits for nothing any more."""
        waiting = {name for stretch in self._pending for name in stretch.needs}
        for shard in self._shards:
            if shard.name in self._journal.shards and waiting.isdisjoint(shard.tensors):
                self._checkpoint.forget(shard)

    def _seal(self) -> None:
        """Read the files that have become complete once more for their checksums, and give them their names."""
        open_files = {stretch.file for stretch in self._pending}
        for file, (head, size) in self._heads.items():
            if file not in open_files and file not in self._journal.finished:
                path = self._path(file)
                entry = {
                    "file": file,
                    "bytes": len(head) + size,
                    **_checksums(path, len(head), self._records.get(file)),
                }
                path.replace(self._folder / file)
                sync_folder(self._folder)
                self._journal.add(entry)

    def _path(self, file: str) -> Path:
        """Where an output file is: it has its own name once it is complete."""
        path = self._folder / file
        return path if path.exists() else path.with_name(file + TEMPORARY)


def _placed(ready: list[Stretch]) -> Iterator[tuple[Stretch, int, memoryview]]:
    for stretch in ready:
        for at, data in stretch.data():
            yield stretch, at, data


def _checksums(path: Path, head: int, record: int | None) -> dict[str, Any]:
    """The file's SHA-256, and the CRC-32 of each of its records if it has any."""
    digest, crc32 = hashlib.sha256(), []
    with path.open("rb") as file:
        digest.update(file.read(head))
        while data := file.read(record or _PIECE):
            digest.update(data)
            if record:
                crc32.append(zlib.crc32(data))
    return {"sha256": digest.hexdigest(), "crc32": crc32}


class _Outputs:
    """Files that are written to in any order, and synced together."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def write(self, path: Path, at: int, data: memoryview) -> None:
        """Put bytes at their place; raises ResourceError where the disk is full."""
        try:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_WRONLY)
            while data:
                written = os.pwrite(self._files[path], data, at)
                at, data = at + written, data[written:]
        except OSError as error:
            raise write_error(error, path) from error

    def sync(self) -> None:
        """Make all that was written outlive a power loss."""
        for path, descriptor in self._files.items():
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise write_error(error, path) from error

    def __enter__(self) -> _Outputs:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
