"""`moe pull`: a checkpoint into the Hub's cache, as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli import hub, hub_cache, link_rate, output, store
from cli.hub_http import XetOnly
from cli.hub_listing import Repository
from cli.meter import Meter
from cli.pull_plan import PullPlan
from cli.remote_checkpoint import open_remote
from cpu_runtime import models, plan_for
from quant.checkpoint import read_json
from quant.plan import check
from quant.safetensors_file import read_header

_MEMORY = 150 << 20  # bytes of Python, the HTTP client and what is under way


class PlainPull:
    """A checkpoint on the Hub that is to be in the Hub's cache."""

    def __init__(self, repository: Repository, folder: Path, meter: Meter) -> None:
        """Name the weight files; `folder` has the small ones."""
        self._repository, self._folder, self._meter = repository, folder, meter
        self._files = hub.weight_files(repository, folder)

    @property
    def next_step(self) -> str:
        """The command that goes on from here."""
        return f"moe quantize {self._repository.name.repo}"

    def done(self) -> Path | None:
        """Nowhere: what is in the cache is looked at again."""
        return None

    def plan(self) -> PullPlan:
        """What it needs; raises what `open_remote` and `plan.check` do."""
        try:
            checkpoint = open_remote(self._repository, self._folder, hub_cache.snapshot(self._repository), self._meter)
            check(plan_for(checkpoint.config, checkpoint.names), checkpoint)
        except XetOnly:  # headers can't be had alone: they are looked at when the files are here
            models.find(read_json(self._folder / "config.json"))
        missing = [file for file in self._files if not hub_cache.found(self._repository, file)]
        fetch = sum(hub_cache.missing_bytes(self._repository, file) for file in missing)
        total = sum(file.size for file in self._files)
        rate = link_rate.measure(self._repository, missing, fetch, self._meter)
        return PullPlan(
            becomes="checkpoint",
            files=len(self._files),
            missing=len(missing),
            fetch=fetch,
            present=total - fetch,
            final=total,
            disk=fetch,
            memory=_MEMORY,
            folder=hub_cache.root(),
            rate=rate,
            seconds=fetch / rate if rate else None,
        )

    def run(self) -> Path:
        """Fetch what is missing; returns the folder of the files' names."""
        total = sum(file.size for file in self._files)
        present = total - sum(hub_cache.missing_bytes(self._repository, file) for file in self._files)
        # Before the weights, so that `moe list` shows a part too, and what goes on with it.
        store.remember_source(self._repository.name.repo, self._repository.commit, self._folder)
        with output.progress("pulling", total, done=present) as advance:
            self._meter.begin(present, advance)
            folder = hub.fetch(self._repository, self._files, self._meter)
        for file in self._files:
            read_header(folder / file.name)
        return folder

    def conversion(self) -> dict[str, Any]:
        """None is made: a checkpoint stays one."""
        return {}
