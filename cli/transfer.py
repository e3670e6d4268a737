"""Bringing one file here: going on where an earlier run was stopped, and whole and intact or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cli import hub_xet
from cli.hub_http import XetOnly, pieces
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter
from cli.part_file import PartFile, drop_journal, durable_bytes
from quant.errors import CheckpointError


def download(
    repository: Repository, file: RemoteFile, target: Path, meter: Meter, until: Callable[[], int] | None = None
) -> None:
    """Bring a file to `target` and check it against the Hub's checksum; one that is there is left alone.

    Leaves off where `until` says, as if it had been stopped.
    Raises AccessError, ResourceError, UsageError where another process fetches it, and CheckpointError where it came
    damaged twice. What is on the disk by then is kept, unless it is the damage.
    """
    if target.exists():
        drop_journal(target)
        return
    known = durable_bytes(target)
    with PartFile(file, target) as part:
        if target.exists():  # another process was quicker
            part.discard()
            return
        meter.again(part.lost)
        meter.grew(part.durable - known)
        for attempt in range(2):
            try:
                for piece in pieces(repository, file, part.bytes, file.size, meter):
                    before = part.durable
                    part.write(piece)
                    meter.grew(part.durable - before)
                    if until and until() <= part.bytes < file.size:
                        return
            except XetOnly:
                part.discard()
                hub_xet.download(repository, file, target)
                meter.grew(file.size)
                return
            if part.intact:
                part.finish()
                return
            part.refuse_web_page()
            if attempt == 0:
                meter.say(f"{file.name} came damaged: its checksum is not the Hub's; fetching it again")
                meter.again(part.bytes)
            meter.grew(-part.durable)
            part.restart()
        part.discard()
    raise CheckpointError(f"{file.name} came damaged twice: its checksum is not the Hub's", hint="try again later")
