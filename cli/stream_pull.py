"""`moe pull --quantize`: quantize a checkpoint as it comes, so that the source is never on the disk as a whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli import hub_cache, link_rate, output, store
from cli.hub_listing import Repository
from cli.meter import Meter
from cli.names import HubName
from cli.part_file import durable_bytes
from cli.pull_plan import PullPlan
from cli.remote_checkpoint import open_remote
from cli.transfer import download
from cpu_runtime import plan_for
from quant.arriving import Shard
from quant.checkpoint import read_json
from quant.convert import Progress, partial_folder, refuse_existing, tidy
from quant.errors import CheckpointError
from quant.formats import ENCODABLE
from quant.manifest import MANIFEST
from quant.preview import Preview, preview
from quant.recipe import Recipe
from quant.stream import convert_stream, fingerprint, needed_shards, peak_bytes
from quant.writer import begun

_SAMPLE = (512, 4096)  # weights that are packed to see how fast that goes
_A_TENSOR = 1000  # bytes of memory for what is known of one


def pinned(name: HubName, target: Path) -> HubName:
    """The commit that a stopped run of the same pull was made from, where no other is asked for."""
    repo, _, commit = begun(partial_folder(target))[1].partition("@")
    if repo != name.repo or not commit or name.revision is not None:
        return name
    output.say(f"going on with {repo} at {commit[:8]}")
    return HubName(repo, commit)


class StreamPull:
    """A checkpoint on the Hub, by the headers of its shards, that is to become the model `target`."""

    def __init__(self, repository: Repository, folder: Path, recipe: Recipe, target: Path, meter: Meter) -> None:
        """Read the headers; `folder` has the small files. Raises what `open_remote` and `plan.check` do."""
        self._repository, self._recipe, self._target, self._meter = repository, recipe, target, meter
        self._checkpoint = open_remote(repository, folder, partial_folder(target), meter)
        self._plan = plan_for(self._checkpoint.config, self._checkpoint.names)
        self._sizes = preview(self._checkpoint, self._plan, recipe)
        self._shards = needed_shards(self._checkpoint, self._plan, recipe)
        found, _, done = begun(partial_folder(target))
        self._done = done if found == fingerprint(self._checkpoint, self._plan, recipe) else set()

    @property
    def next_step(self) -> str:
        """The command that goes on from here."""
        return f"moe chat {store.shortest(self._target)}"

    @property
    def _origin(self) -> str:
        return f"{self._repository.name.repo}@{self._repository.commit}"

    def done(self) -> Path | None:
        """The model's folder where it is there already; raises UsageError where another model is."""
        if (self._target / MANIFEST).exists():
            made = read_json(self._target / MANIFEST)
            if made.get("source", {}).get("name") == self._origin and made["recipe"]["formats"] == self._recipe.formats:
                return tidy(self._target)
        refuse_existing(self._target)
        return None

    def plan(self) -> PullPlan:
        """What it needs, with the rates of this link and this machine as they are now."""
        left = [shard for shard in self._shards if shard.name not in self._done]
        files = [self._repository.files[shard.name] for shard in left if not shard.path.exists()]
        partial = partial_folder(self._target)
        fetch = sum(file.size - durable_bytes(partial / file.key) for file in files)
        here = sum(file.stat().st_blocks * 512 for file in partial.iterdir()) if partial.is_dir() else 0
        rate = link_rate.measure(self._repository, files, fetch, self._meter)
        share = sum(shard.bytes for shard in left) / max(1, sum(shard.bytes for shard in self._shards))
        return PullPlan(
            becomes=f"{self._recipe.name} model",
            files=len(self._shards),
            missing=len(files),
            fetch=fetch,
            present=sum(shard.path.stat().st_size for shard in left if shard.path.exists()),
            final=self._sizes.output_bytes,
            disk=max(0, peak_bytes(self._checkpoint, self._plan, self._recipe) - here),
            memory=self._sizes.peak_bytes + _A_TENSOR * len(self._checkpoint.names),
            folder=self._target.parent,
            rate=rate,
            seconds=fetch / rate + share * _packing_seconds(self._sizes) if rate else None,
        )

    def run(self) -> Path:
        """Fetch, quantize and drop shard after shard; returns the model's folder."""
        sizes = {shard.name: self._repository.files[shard.name].size for shard in self._shards}
        come = sum(size for name, size in sizes.items() if name in self._done)
        self._meter.finished(come)
        made = 0
        with output.progress("pulling and quantizing", sum(sizes.values()) + self._sizes.output_bytes) as advance:

            def show_come(durable: int) -> None:
                nonlocal come
                come = durable
                advance(come + made)

            def show_made(progress: Progress) -> None:
                nonlocal made
                made = progress.done
                advance(come + made)

            self._meter.show = show_come
            return convert_stream(
                self._checkpoint,
                self._plan,
                self._recipe,
                self._target,
                _Supply(self._repository, self._meter),
                source=self._origin,
                on_progress=show_made,
            )


@dataclass
class _Supply:
    """Shards from the Hub, or from its cache where they are there."""

    repository: Repository
    meter: Meter

    def begin(self, shard: Shard) -> None:
        """Nothing: the next shard is fetched when the one at hand is gone."""

    def complete(self, shard: Shard) -> None:
        """Return when a shard is at its path, whole and verified."""
        file = self.repository.files[shard.name]
        if not shard.keep:
            download(self.repository, file, shard.path, self.meter)
        elif hub_cache.verified(self.repository, file) is None:
            raise CheckpointError(f"{file.name} in the Hub's cache was damaged", hint="run the same command again")
        self.meter.finished(file.size)


def _packing_seconds(sizes: Preview) -> float:
    """How long quantizing takes, from a sample in the format of most weights; 0 for formats that are only copied."""
    form = ENCODABLE.get(sizes.roles[0].formats[0])
    if form is None:
        return 0.0
    sample = np.random.default_rng(0).standard_normal(_SAMPLE, np.float32)
    form.pack(sample)  # compiled now
    begun_at = time.perf_counter()
    form.pack(sample)
    return (time.perf_counter() - begun_at) * sizes.weights / sample.size
