"""From a checkpoint to a quantized model: read a few rows, quantize, write; a layer a file, so that a kill costs one.

A run that was stopped goes on at the first unfinished file and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from quant import layout
from quant.building import building
from quant.checkpoint import INDEX, Checkpoint
from quant.checksums import Checksums
from quant.errors import ResourceError
from quant.jobs import jobs
from quant.journal import Journal
from quant.manifest import FORMAT_VERSION, MANIFEST, manifest, sealed
from quant.plan import Plan, check
from quant.recipe import Recipe
from quant.report import REPORT, Sums, report
from quant.writer import RESUME, FileWriter

SPARE = 64 << 20  # bytes of disk kept free beside the model itself
COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "tiktoken.model"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json", "LICENSE", "LICENSE.txt"),
)
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a conversion is, in bytes of output; `resumed` of them were there before it started."""

    file: str
    done: int
    total: int
    resumed: int


def convert(
    checkpoint: Checkpoint,
    plan: Plan,
    recipe: Recipe,
    out: Path,
    *,
    source: str = "",
    resume: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_file: Callable[[str, Sums], None] = lambda file, sums: None,
) -> Path:
    """Write the quantized model to the new folder `out` and return it; `source` names the origin in the manifest.

    `resume` is what a person runs to go on after a stop. `on_file` is told the errors of the matrices in each file that
    is finished. Raises UsageError where `out` exists, CheckpointError for a faulty source, ResourceError where the disk
    is full; after an error or a kill the same call resumes.
    """
    recipe.check_statistics(plan)
    recipe.check_layers(plan)
    check(plan, checkpoint)
    with building(out) as folder:
        _convert(checkpoint, plan, recipe, folder, source, resume, on_progress, on_file)
    return out


def _convert(
    checkpoint: Checkpoint,
    plan: Plan,
    recipe: Recipe,
    folder: Path,
    source: str,
    resume: str,
    on_progress: Callable[[Progress], None],
    on_file: Callable[[str, Sums], None],
) -> None:
    files = jobs(checkpoint, plan, recipe)
    total = sum(job.size for job in files)
    made = fingerprint(checkpoint, plan, recipe)
    journal = Journal(folder, made, source=source, resume=resume, total=total, formats=recipe.formats)
    resumed = done = sum(job.size for job in files if job.file in journal.finished)
    free = shutil.disk_usage(folder).free
    if free < total - done + SPARE:
        raise ResourceError(
            f"{(total - done + SPARE) / 1e9:.2f} GB needed at {folder.parent}, {free / 1e9:.2f} GB free",
            hint=RESUME,
        )
    for job in files:
        if job.file not in journal.finished:
            sums, crc32 = Sums(), Checksums(len(job.head), job.stretches)
            with FileWriter(folder / job.file) as file:
                for data in ahead(job.data(sums)):
                    file.write(data)
                    crc32.update(data)
                    on_progress(Progress(job.file, done + file.bytes, total, resumed))
            assert file.bytes == job.size
            entry = {"file": job.file, "bytes": file.bytes, "sha256": file.sha256, "crc32": crc32.values, "sums": sums}
            journal.add(entry)
            on_file(job.file, sums)
            done += job.size
    finish(checkpoint, plan, recipe, folder, source, journal)


def finish(checkpoint: Checkpoint, plan: Plan, recipe: Recipe, folder: Path, source: str, journal: Journal) -> None:
    """Write the small files, the manifest last; the journal has the large ones."""
    small = {name: (checkpoint.path / name).read_bytes() for name in COPIED if (checkpoint.path / name).is_file()}
    own = {"quant_method": "moe", "format_version": FORMAT_VERSION, "recipe": recipe.name}
    small["config.json"] = _json({**checkpoint.config, "quantization_config": own})
    places = {dense.name: layout.DENSE_FILE for dense in plan.dense}
    places |= {layout.expert_tensor(e.layer): layout.expert_file(e.layer) for e in plan.experts}
    size = sum(entry["bytes"] for entry in journal.finished.values())
    small[INDEX] = _json({"metadata": {"total_size": size}, "weight_map": places})
    small[REPORT] = _json(report(plan, recipe, checkpoint, journal.sums))
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in small.items()}
    for entry in journal.finished.values():
        files[entry["file"]] = {"bytes": entry["bytes"], "sha256": entry["sha256"]}
    crc32 = {name: entry["crc32"] for name, entry in journal.finished.items()}
    small[MANIFEST] = sealed(_json(manifest(checkpoint, plan, recipe, source, dict(sorted(files.items())), crc32)))
    for name, data in small.items():
        with FileWriter(folder / name) as file:
            file.write(data)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def fingerprint(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> str:
    """Identifies what is being made: only the same source, plan, recipe and statistics go on with a partial folder."""
    shards = [(file.name, file.stat().st_size) for file in checkpoint.files]
    parts = (FORMAT_VERSION, checkpoint.config, repr(plan), recipe.formats, shards, *recipe.calibration.values())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def ahead(pieces: Iterable[T]) -> Iterator[T]:
    """The same pieces, the next one made in a thread while this one is used."""
    iterator, end = iter(pieces), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, end)
        while (piece := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield piece  # type: ignore[misc]
