"""How fast the Hub's bytes come here now."""

from __future__ import annotations

import time

from cli.hub_http import XetOnly, pieces
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter

_WORTH = 256 << 20  # bytes to fetch from which the time is worth asking for
_SAMPLE, _SECONDS = 8 << 20, 3.0  # bytes and time of the sample, whichever ends first


def measure(repository: Repository, files: list[RemoteFile], to_fetch: int, meter: Meter) -> float | None:
    """Bytes a second, from a sample of the largest file that is thrown away; None where little is to be fetched."""
    if to_fetch < _WORTH:
        return None
    largest = max(files, key=lambda file: file.size)
    start = largest.size // 2
    begun: float | None = None
    count, now = 0, 0.0
    try:
        for piece in pieces(repository, largest, start, min(start + _SAMPLE, largest.size), meter):
            now = time.monotonic()
            if begun is None:  # what came before is the time to open a connection
                begun = now
                continue
            count += len(piece)
            if now - begun > _SECONDS:
                break
    except XetOnly:  # the library will fetch it in its own way
        return None
    return count / (now - begun) if begun is not None and count and now > begun else None
