"""The `moe` command as a person runs it: a process of its own, with an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def environment(home: Path, **changes: str) -> dict[str, str]:
    """The environment of a command whose store is at `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MOE_")) and k != "NO_COLOR"}
    own = {"MOE_HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | own | changes


def moe(
    *arguments: str | Path, home: Path, stdin: str = "", before: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a store of its own, with no terminal, after the Python statements in `before`."""
    start = ["-c", f"{before}\nfrom cli.__main__ import main\nmain()"] if before else ["-m", "cli"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        input=stdin,
        env=environment(home, **changes),
        capture_output=True,
        text=True,
        timeout=300,
    )


def check_error(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """An error is one line with these words, a next step under it perhaps, no traceback, and its exit code."""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert result.returncode == code, result.stderr
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
