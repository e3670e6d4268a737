"""Running a command in a control group of version 1."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_in(group: Path, command: Sequence[object], environment: Mapping[str, str] | None = None) -> str:
    """What it printed; ends this process with the end of its stderr where it failed."""
    shell = ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh", *map(str, command)]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout
