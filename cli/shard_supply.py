"""Shards for a streamed conversion: from the Hub, half of the next one while the one at hand is quantized."""

from __future__ import annotations

from threading import Thread

from cli import hub_cache
from cli.hub_listing import Repository
from cli.meter import Meter
from cli.transfer import download
from quant.arriving import Shard
from quant.errors import CheckpointError


class ShardSupply:
    """Brings shards to their paths, whole and verified; `ahead` allows half a shard of disk for the next one."""

    def __init__(self, repository: Repository, meter: Meter, *, ahead: bool) -> None:
        self._repository, self._meter, self._ahead = repository, meter, ahead
        self._thread: Thread | None = None
        self._error: BaseException | None = None
        self._limit = 0  # bytes at which the thread stops

    def begin(self, shard: Shard) -> None:
        """Fetch up to half of a shard in a thread."""
        if self._ahead and not shard.keep:
            self._limit = self._repository.files[shard.name].size // 2
            self._thread = Thread(target=self._fetch_some, args=(shard,), daemon=True)
            self._thread.start()

    def _fetch_some(self, shard: Shard) -> None:
        try:
            file = self._repository.files[shard.name]
            download(self._repository, file, shard.path, self._meter, until=lambda: self._limit)
        except Exception as error:
            self._error = error

    def complete(self, shard: Shard) -> None:
        """Return when a shard is at its path; raises as `transfer.download` does."""
        file = self._repository.files[shard.name]
        self._limit = file.size
        self._join()
        if not shard.keep:
            download(self._repository, file, shard.path, self._meter)
        elif hub_cache.verified(self._repository, file) is None:
            raise CheckpointError(f"{file.name} in the Hub's cache was damaged", hint="run the same command again")

    def _join(self) -> None:
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error

    def stop(self) -> None:
        """Let the thread end at its next byte; what it has is kept."""
        self._limit = 0
        if self._thread:
            self._thread.join(timeout=2)
