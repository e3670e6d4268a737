"""`moe pull --quantize`: quantize a checkpoint as it comes, so that the source is never on the disk as a whole."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from cli import conversion_json, hub_cache, link_rate, output, packing_time, sizes, store
from cli.hub_listing import Repository
from cli.meter import Meter
from cli.names import HubName
from cli.part_file import durable_bytes
from cli.pull_plan import PullPlan
from cli.recipe_choice import Choice
from cli.remote_checkpoint import open_remote
from cli.shard_supply import ShardSupply
from cpu_runtime import plan_for
from quant.arriving import Shard
from quant.building import partial_folder, refuse_existing, tidy
from quant.convert import Progress
from quant.journal import unfinished
from quant.manifest import MANIFEST
from quant.manifest_file import read_manifest
from quant.matrix_errors import known
from quant.plan import check
from quant.preview import Preview, preview
from quant.report import read_report
from quant.solved_recipe import solve
from quant.stream import convert_stream
from quant.stream_plan import StreamPlan, fingerprint, stream_plan

_A_TENSOR = 1000  # bytes of memory for what is known of one
_CLIENT = 120 << 20  # bytes of memory for the HTTP client and what is under way


def pinned(name: HubName, target: Path) -> HubName:
    """The commit that a stopped run of the same pull was made from, where no other is asked for."""
    repo, _, commit = unfinished(partial_folder(target)).source.partition("@")
    if repo != name.repo or not commit or name.revision is not None:
        return name
    output.say(f"going on with {repo} at {commit[:8]}")
    return HubName(repo, commit)


class StreamPull:
    """A checkpoint on the Hub that is to become the model `target`."""

    def __init__(
        self, repository: Repository, folder: Path, choice: Choice, target: Path, meter: Meter, resume: str
    ) -> None:
        """Remember; `folder` has the small files."""
        self._repository, self._folder = repository, folder
        self._choice, self._target, self._meter, self._resume = choice, target, meter, resume
        self._ahead = True

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
            made = read_manifest(self._target)
            recipe, wanted = made["recipe"], self._choice.recipe
            same = recipe.get("formats") == wanted.formats if wanted else recipe.get("name") == self._choice.name
            alike = same and made.get("calibration", {}) == self._choice.calibration
            if made["source"]["name"] == self._origin and alike:
                return tidy(self._target)
        refuse_existing(self._target)
        return None

    @cached_property
    def _work(self) -> StreamPlan:
        partial = partial_folder(self._target)
        checkpoint = open_remote(self._repository, self._folder, partial, self._meter)
        plan = plan_for(checkpoint.config, checkpoint.names)
        check(plan, checkpoint)
        recipe = self._choice.settle(
            plan,
            partial,
            lambda recipe: fingerprint(checkpoint, plan, recipe),
            lambda budget: solve(plan, checkpoint, known, budget, self._choice.statistics),
        )
        return stream_plan(checkpoint, plan, recipe)

    @cached_property
    def _sizes(self) -> Preview:
        return preview(self._work.checkpoint, self._work.plan, self._work.recipe)

    @cached_property
    def _begun(self) -> frozenset[str]:
        """Shards that are done with."""
        found = unfinished(partial_folder(self._target))
        return found.shards if found.fingerprint == self._work.fingerprint else frozenset()

    def _missing_bytes(self, shard: Shard) -> int:
        if shard.name in self._begun or shard.path.exists():
            return 0
        return self._repository.files[shard.name].size - durable_bytes(shard.path)

    def plan(self) -> PullPlan:
        """What it needs, with the rates of this link and this machine; raises what `open_remote` and `preview` do."""
        shards = self._work.shards
        missing = [shard for shard in shards if self._missing_bytes(shard)]
        fetch = sum(map(self._missing_bytes, missing))
        disk = self._disk()
        files = [self._repository.files[shard.name] for shard in missing]
        rate = link_rate.measure(self._repository, files, fetch, self._meter)
        return PullPlan(
            becomes=f"{self._choice.name} model",
            files=len(shards),
            missing=len(missing),
            fetch=fetch,
            present=self._source_bytes - fetch,
            final=self._sizes.output_bytes,
            disk=disk,
            memory=self._sizes.peak_bytes + _CLIENT + _A_TENSOR * len(self._work.checkpoint.names),
            folder=self._target.parent,
            rate=rate,
            seconds=self._seconds(fetch / rate) if rate else None,
        )

    def _disk(self) -> int:
        """Bytes of disk it still takes; where they are short, the next shard is not begun ahead."""
        partial = partial_folder(self._target)
        here = sum(file.stat().st_blocks * 512 for file in partial.iterdir()) if partial.is_dir() else 0
        needed = self._work.peak_bytes(ahead=True)
        self._ahead = hub_cache.fits(needed - here, self._target.parent)
        if not self._ahead:
            needed = self._work.peak_bytes(ahead=False)
        return max(0, needed - here)

    def _seconds(self, fetching: float) -> float:
        """How long all of it takes where fetching takes so long."""
        left = sum(shard.bytes for shard in self._work.shards if shard.name not in self._begun)
        share = left / max(1, sum(shard.bytes for shard in self._work.shards))
        packing = share * packing_time.measure(self._sizes, calibrated=self._choice.statistics is not None)
        return max(fetching, packing) if self._ahead else fetching + packing

    @property
    def _source_bytes(self) -> int:
        return sum(self._repository.files[shard.name].size for shard in self._work.shards)

    def run(self) -> Path:
        """Fetch, quantize and drop shard after shard; returns the model's folder."""
        come = self._source_bytes - sum(map(self._missing_bytes, self._work.shards))
        made = 0
        total = self._source_bytes + self._sizes.output_bytes
        with output.progress("pulling and quantizing", total, done=come) as advance:

            def show_come(durable: int) -> None:
                nonlocal come
                come = durable
                advance(come + made)

            def show_made(progress: Progress) -> None:
                nonlocal made
                made = self._sizes.output_bytes * progress.done // progress.total
                advance(come + made)

            self._meter.begin(come, show_come)
            supply = ShardSupply(self._repository, self._meter, ahead=self._ahead)
            try:
                convert_stream(
                    self._work,
                    self._target,
                    supply,
                    source=self._origin,
                    resume=self._resume,
                    on_progress=show_made,
                    on_file=sizes.show_file,
                )
            finally:
                supply.stop()
        sizes.show_roles(self._sizes.roles, read_report(self._target), to_stderr=True)
        return self._target

    def conversion(self) -> dict[str, Any]:
        """What `moe quantize --json` says of the same model, made or not yet."""
        if (self._target / MANIFEST).exists():
            return conversion_json.of_model(self._target)
        return conversion_json.of_plan(self._target, self._work.recipe, self._sizes)
