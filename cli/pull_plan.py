"""What a way to pull offers, and what it needs: shown before the first byte of the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from cli import hub_cache, output
from cli.hub_listing import Repository


@dataclass(frozen=True)
class PullPlan:
    """Bytes: `fetch` over the wire, `present` here already, `final` of what it `becomes` in `folder`.

    `disk` is what the pull still adds to what is on it at its fullest, `memory` the most the process holds. `rate` is
    measured, bytes a second, `seconds` follow from it; both None where it is over too soon to tell.
    """

    becomes: str
    files: int
    missing: int
    fetch: int
    present: int
    final: int
    disk: int
    memory: int
    folder: Path
    rate: float | None = None
    seconds: float | None = None

    def show(self, repository: Repository) -> None:
        """Tell the person, on stderr."""
        output.say(
            f"{repository.name.repo} at {repository.commit[:8]}: {self.missing} of {self.files} weight files to fetch, "
            f"{output.size(self.fetch)} ({output.size(self.present)} present)"
        )
        rows = [
            [self.becomes, output.size(self.final), str(self.folder)],
            ["disk needed", output.size(self.disk), f"{output.size(hub_cache.free_bytes(self.folder))} free"],
            ["memory", output.size(self.memory), "at most"],
        ]
        if self.rate and self.seconds:
            rows.append(["time", duration(self.seconds), f"at {output.size(self.rate)}/s, measured now"])
        output.table(["NEEDS", "", ""], rows, to_stderr=True)

    def check_room(self) -> None:
        """Raise ResourceError where the disk will not do."""
        hub_cache.check_room(
            self.disk, self.folder, "free some space, or choose a larger disk: with --out, MOE_HOME or HF_HOME"
        )

    def to_json(self) -> dict[str, Any]:
        """As `--json` has it."""
        return {**asdict(self), "folder": str(self.folder)}


class Pull(Protocol):
    """A way to pull a repository whose small files are here."""

    @property
    def next_step(self) -> str:
        """The command that goes on from here."""

    def done(self) -> Path | None:
        """The folder of what is to be pulled where it is here; raises UsageError where something else has its place."""

    def plan(self) -> PullPlan:
        """What it needs."""

    def run(self) -> Path:
        """Pull, and return the folder of what was pulled."""

    def conversion(self) -> dict[str, Any]:
        """What `--json` says of a conversion on the way, see `conversion_json`; empty where there is none."""


def duration(seconds: float) -> str:
    """Time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
