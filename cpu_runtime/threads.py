"""How many threads to use."""

from __future__ import annotations

import os


def physical_cores() -> int:
    """Physical cores this process may run on; a second thread a core only contends for its vector units."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)
