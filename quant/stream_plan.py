"""A streamed conversion before it starts: which shards are needed, what each completes, and what has to wait."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from quant import layout
from quant.arriving import ArrivingCheckpoint, Shard
from quant.manifest import FORMAT_VERSION
from quant.plan import Plan
from quant.recipe import Recipe
from quant.stretches import Stretch, stretches


@dataclass(frozen=True)
class StreamPlan:
    """Shards in the order in which they are taken up, of which there are N.

    `completes[n]` are the stretches of the output that can be made once shard n is here, and `last[name]` is the shard
    after which a tensor is needed no longer.
    """

    checkpoint: ArrivingCheckpoint
    plan: Plan
    recipe: Recipe
    shards: tuple[Shard, ...]
    completes: tuple[tuple[Stretch, ...], ...]
    last: dict[str, int]

    @property
    def output_bytes(self) -> int:
        """Bytes that stretches write; headers and padding come to it."""
        return sum(stretch.size for made in self.completes for stretch in made)

    @property
    def fingerprint(self) -> str:
        """Identifies what is being made: only the same goes on with what is there."""
        return fingerprint(self.checkpoint, self.plan, self.recipe)

    def waiting(self, n: int) -> list[str]:
        """The tensors of shard n that are needed after it."""
        return [name for name in self.shards[n].tensors if self.last.get(name, n) > n]

    def wanted_until(self, n: int) -> int:
        """The shard after which nothing of shard n is needed."""
        return max((self.last[name] for name in self.shards[n].tensors if name in self.last), default=n)

    def files_after(self, n: int) -> set[str]:
        """The output files of which something is made after shard n."""
        return {stretch.file for made in self.completes[n + 1 :] for stretch in made}

    def peak_bytes(self, *, ahead: bool) -> int:
        """The most that the output, the shard at hand and waiting tensors ever take on disk together.

        `ahead`: half of the next shard too.
        """
        comes, goes = [0] * len(self.shards), [0] * len(self.shards)
        for n, shard in enumerate(self.shards):
            size = sum(shard.tensors[name].bytes for name in self.waiting(n))
            comes[n] += size
            goes[self.wanted_until(n)] += size
        sizes = [0 if shard.keep else shard.bytes for shard in self.shards]
        peak = waiting = 0
        for n, size in enumerate(sizes):
            waiting += comes[n]  # copied before the shard goes
            following = sizes[n + 1] // 2 if ahead and n + 1 < len(sizes) else 0
            peak = max(peak, waiting + size + following)
            waiting -= goes[n]
        return peak + sum(layout.file_bytes(self.plan, self.recipe, self.checkpoint).values())


def fingerprint(checkpoint: ArrivingCheckpoint, plan: Plan, recipe: Recipe) -> str:
    """Identifies what a streamed conversion makes."""
    shards = [(shard.name, shard.key) for shard in checkpoint.shards]
    made = (repr(plan), recipe.formats, shards, *recipe.calibration.values())
    parts = ("stream", FORMAT_VERSION, checkpoint.config, *made)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def stream_plan(checkpoint: ArrivingCheckpoint, plan: Plan, recipe: Recipe) -> StreamPlan:
    """How a checkpoint becomes a model a shard at a time; raises what `encoding.find` raises."""
    found = stretches(checkpoint, plan, recipe)
    needed = {name for stretch in found for name in stretch.needs}
    shards = [shard for shard in checkpoint.shards if not needed.isdisjoint(shard.tensors)]
    home = {name: n for n, shard in enumerate(shards) for name in shard.tensors}
    completes: list[list[Stretch]] = [[] for _ in shards]
    last: dict[str, int] = {}
    for stretch in found:
        n = max(home[name] for name in stretch.needs)
        completes[n].append(stretch)
        for name in stretch.needs:
            last[name] = max(last.get(name, 0), n)
    return StreamPlan(checkpoint, plan, recipe, tuple(shards), tuple(map(tuple, completes)), last)
