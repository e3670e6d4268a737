"""What a prediction has to know of this machine: which it is, and how much memory it can give."""

from __future__ import annotations

import platform
from pathlib import Path

_CGROUP = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def name() -> str:
    """This machine as its measurements are filed: host, CPU and the instructions that kernels use."""
    from cpu_runtime.kernels.cpu import LOWERING

    return f"{platform.node()}, {platform.machine()}, {LOWERING}"


def available_memory() -> int:
    """Bytes that programs can still take without swapping, within the limit of a container where there is one."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_rooms()])


def _rooms() -> list[int]:
    found = []
    for limit, used in _CGROUP:
        try:
            found.append(max(int(limit.read_text()) - int(used.read_text()), 0))
        except (OSError, ValueError):  # no such file, or "max": nothing limits us there
            continue
    return found
