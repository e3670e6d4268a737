"""This machine's rates, measured once and kept in the cache folder with the machine's name and the date."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import output, small_file, store

if TYPE_CHECKING:
    from cpu_runtime.drive import Drive
    from cpu_runtime.rates import Rate, Rates

_KIND = 4  # of note: one of another kind is not understood


@dataclass(frozen=True)
class Measured:
    """Rates, those of the drive that models are on, and when that was found."""

    rates: Rates
    drive: Drive
    date: str


def measured(threads: int, *, fresh: bool = False) -> Measured:
    """The rates of this machine on so many threads: the kept ones, or measured now where there are none."""
    from cpu_runtime import machine

    file = store.cache_folder() / "rates.json"
    key = {"kind": _KIND, "machine": machine.name(), "threads": threads, "folder": str(store.models_folder())}
    kept = None if fresh else _kept(file, key)
    if kept is None:
        with output.busy("measuring this machine"):
            kept = _measure(threads)
        _keep(file, {**key, **asdict(kept)})
    return kept


def _measure(threads: int) -> Measured:
    from cpu_runtime import drive, rates
    from quant.jit import set_threads

    set_threads(threads)
    found = rates.rates(threads)
    folder = store.models_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return Measured(found, drive.of_folder(there), datetime.now(UTC).isoformat(timespec="minutes"))


def _kept(file: Path, key: dict[str, Any]) -> Measured | None:
    from cpu_runtime.drive import Drive
    from cpu_runtime.rates import Rates

    try:
        value = json.loads(file.read_text())
        if any(value[k] != v for k, v in key.items()):
            return None
        found = value["rates"]
        by_format = {part: _by_format(found[part]) for part in ("matrices", "experts")}
        return Measured(Rates(**{**found, **by_format}), Drive(**value["drive"]), str(value["date"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a note that can't be read is measured again


def _by_format(found: dict[str, Any]) -> dict[str, Rate]:
    from cpu_runtime.rates import Rate

    return {name: Rate(rate["one"], tuple(rate["many"])) for name, rate in found.items()}


def _keep(file: Path, value: dict[str, Any]) -> None:
    try:
        small_file.write(file, json.dumps(value, indent=1) + "\n")
    except OSError as error:
        output.say(f"can't keep what was measured at {file}: {error.strerror}")
