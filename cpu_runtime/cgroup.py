"""The memory limit that a container or a service manager set, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_NO_LIMIT = 1 << 60  # bytes; version 1 says "none" by a number near 2^63
_RECLAIMABLE = ("total_inactive_file", "total_active_file"), ("inactive_file", "active_file")


def memory_room(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes that may still be taken in the tightest of the groups this process is in; None without a limit.

    Cached file pages count as room: the system gives them up before it refuses memory.
    """
    rooms = [room for folder in _folders(root, own) if (room := _room(folder)) is not None]
    return min(rooms, default=None)


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """The groups, inside out; inside a container the path may not exist, and the mount itself is the group."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "memory" if controllers else root
        folder = mount / path.strip("/")
        yield from (f for f in [folder, *folder.parents] if f.is_relative_to(mount))


def _room(folder: Path) -> int | None:
    for limit_file, usage_file in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit = (folder / limit_file).read_text().strip()
            if limit == "max" or int(limit) >= _NO_LIMIT:
                return None
            used = int((folder / usage_file).read_text())
            counted = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:  # the other version, or a group that is not shown here
            continue
        names = _RECLAIMABLE[0] if _RECLAIMABLE[0][0] in counted else _RECLAIMABLE[1]
        return max(0, int(limit) - used + sum(int(counted.get(name, 0)) for name in names))
    return None
