"""From shards that come one at a time to a quantized model: make what is complete, drop the shard, ask for the next.

The result is what `convert` makes of the whole checkpoint, byte for byte. The disk holds the output, one shard and
the tensors that wait for others; a run that was stopped goes on with the first shard that is not noted in the journal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from quant import layout
from quant.arriving import Shard
from quant.building import building
from quant.checksums import Checksums
from quant.convert import Progress, ahead, finish
from quant.errors import CheckpointError
from quant.journal import Journal
from quant.plan import check
from quant.report import Sums
from quant.stream_plan import StreamPlan
from quant.stretches import Stretch
from quant.writer import TEMPORARY, sync_folder, write_error

_PIECE = 16 << 20  # bytes hashed at a time


class Supply(Protocol):
    """Where shards come from."""

    def begin(self, shard: Shard) -> None:
        """Fetch a little of the shard that will be needed next, meanwhile."""

    def complete(self, shard: Shard) -> None:
        """Return when a shard is at its path, whole and verified."""


def convert_stream(
    work: StreamPlan,
    out: Path,
    supply: Supply,
    *,
    source: str = "",
    resume: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_file: Callable[[str, Sums], None] = lambda file, sums: None,
) -> Path:
    """Write the quantized model to the new folder `out`; as `convert`, and raises what `supply` raises."""
    work.recipe.check_statistics(work.plan)
    work.recipe.check_layers(work.plan)
    check(work.plan, work.checkpoint)
    with building(out) as folder, work.checkpoint:
        total, formats = work.output_bytes, work.recipe.formats
        journal = Journal(folder, work.fingerprint, source=source, resume=resume, total=total, formats=formats)
        _Stream(work, folder, journal, on_progress, on_file).run(supply)
        finish(work.checkpoint, work.plan, work.recipe, folder, source, journal)
    return out


class _Stream:
    def __init__(
        self,
        work: StreamPlan,
        folder: Path,
        journal: Journal,
        on_progress: Callable[[Progress], None],
        on_file: Callable[[str, Sums], None],
    ) -> None:
        self._work, self._folder, self._journal = work, folder, journal
        self._on_progress, self._on_file = on_progress, on_file
        self._heads = {layout.DENSE_FILE: layout.dense_header(work.plan, work.recipe, work.checkpoint)}
        for layer in work.plan.experts:
            self._heads[layout.expert_file(layer.layer)] = layout.expert_header(layer, work.recipe, work.checkpoint)
        self._total = work.output_bytes
        self._done = self._resumed = 0

    def run(self, supply: Supply) -> None:
        """Take up every shard that is not noted yet, and finish files as they become complete."""
        shards = self._work.shards
        begun = sum(shard.name in self._journal.shards for shard in shards)  # they are the first ones
        self._take_up(begun)
        for n in range(begun, len(shards)):
            supply.complete(shards[n])
            self._work.checkpoint.check(shards[n])
            if n + 1 < len(shards):
                supply.begin(shards[n + 1])
            self._convert(n)

    def _take_up(self, begun: int) -> None:
        """Bring the folder to the state that the journal describes, in which so many shards are done with."""
        if begun:
            for file in self._heads:
                if not self._path(file).exists():
                    raise CheckpointError(
                        f"{file} has gone from {self._folder}", hint="delete that folder and run the same command again"
                    )
        else:
            for file, (head, sizes) in self._heads.items():
                self._create(file, head, sum(sizes))
            sync_folder(self._folder)
        made = self._work.completes[:begun]
        self._resumed = self._done = sum(stretch.size for stretches in made for stretch in stretches)
        self._on_progress(Progress("", self._done, self._total, self._resumed))
        for shard in self._work.shards[:begun]:
            self._work.checkpoint.let_go(shard)
        self._tidy(begun - 1)

    def _create(self, file: str, head: bytes, size: int) -> None:
        try:
            with self._path(file).open("wb") as created:
                created.write(head)
                created.truncate(len(head) + size)
                created.flush()
                os.fsync(created.fileno())
        except OSError as error:
            raise write_error(error, self._path(file)) from error

    def _convert(self, n: int) -> None:
        """Make what shard n completes, let wait what others need, and drop it."""
        shard, before = self._work.shards[n], self._done
        sums: dict[str, Sums] = {}
        with _Outputs() as outputs:
            for stretch, at, data in ahead(_placed(self._work.completes[n], sums)):
                outputs.write(self._path(stretch.file), at, data)
                self._done += len(data)
                self._on_progress(Progress(stretch.file, self._done, self._total, self._resumed))
            outputs.sync()
        self._work.checkpoint.keep(shard, self._work.waiting(n))
        self._journal.add_shard(shard.name, self._done - before, sums)
        self._work.checkpoint.let_go(shard)
        self._tidy(n)

    def _tidy(self, n: int) -> None:
        """After shard n: delete what waits for nothing any more, and finish the files that are complete.

        Those are read once more for their checksums, and given their names.
        """
        for earlier in range(n + 1):
            if self._work.wanted_until(earlier) <= n:
                self._work.checkpoint.forget(self._work.shards[earlier])
        unfinished = self._work.files_after(n)
        for file, (head, sizes) in self._heads.items():
            if file not in unfinished and file not in self._journal.finished:
                path, sums = self._path(file), self._journal.made.get(file, Sums())
                sha256, crc32 = _checksums(path, len(head), sizes)
                size = len(head) + sum(sizes)
                path.replace(self._folder / file)
                sync_folder(self._folder)
                self._journal.add({"file": file, "bytes": size, "sha256": sha256, "crc32": crc32, "sums": sums})
                self._on_file(file, sums)

    def _path(self, file: str) -> Path:
        """Where an output file is: it has its own name once it is complete."""
        path = self._folder / file
        return path if path.exists() else path.with_name(file + TEMPORARY)


def _placed(ready: Iterable[Stretch], sums: dict[str, Sums]) -> Iterator[tuple[Stretch, int, memoryview]]:
    """The bytes of stretches and where they go; errors are added to the sums of their files."""
    for stretch in ready:
        for at, data in stretch.data(sums.setdefault(stretch.file, Sums())):
            yield stretch, at, data


def _checksums(path: Path, head: int, sizes: list[int]) -> tuple[str, list[int]]:
    """(the file's SHA-256, the CRC-32 of each of the stretches of these sizes after its header)."""
    digest, crc32 = hashlib.sha256(), Checksums(head, sizes)
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            digest.update(data)
            crc32.update(data)
    return digest.hexdigest(), crc32.values


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
