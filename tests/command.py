"""The `moe` command as a person runs it: a process of its own, with an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGKILL
from threading import Timer

from tests.conftest import ROOT

SECONDS = 300  # for a command
_idle: list[subprocess.Popen[str]] = []  # servers; threads that call at once have one each


def environment(home: Path, **changes: str) -> dict[str, str]:
    """The environment of a command whose store is at `home`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MOE_")) and k != "NO_COLOR"}
    own = {"MOE_HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return kept | own | changes


def _server() -> subprocess.Popen[str]:
    """A process whose forks are others; it ends when we do."""
    command = [sys.executable, "-m", "tests.command_server"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def started(*arguments: str | Path, home: Path, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Start the interpreter and run a command in a store of its own, with no terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        input=stdin,
        env=environment(home, **changes),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def moe(
    *arguments: str | Path, home: Path, stdin: str = "", before: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """The same after the Python statements in `before`, without the start, which takes longer than most commands."""
    code = f"{before}\nfrom cli.__main__ import main\nmain()"
    return python(code, *arguments, stdin=stdin, environment=environment(home, **changes))


def python(
    code: str,
    *arguments: str | Path,
    stdin: str = "",
    environment: dict[str, str] | None = None,
    folder: Path = ROOT,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run Python statements in a process of their own that has imported ours (see `tests/command_server.py`)."""
    words = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as scratch:
        streams = [Path(scratch) / name for name in ("stdin", "stdout", "stderr")]
        for path in streams:
            path.write_text(stdin if path.name == "stdin" else "")
        request = {"code": code, "arguments": words, "streams": list(map(str, streams))}
        ended = _forked({**request, "folder": str(folder), "environment": environment or {**os.environ}}, seconds)
        return subprocess.CompletedProcess(words, ended, *(path.read_text() for path in streams[1:]))


def _forked(request: dict[str, object], seconds: float) -> int:
    """The exit code of a process, which is killed if it does not come to its end."""
    server = _idle.pop() if _idle else _server()
    assert server.stdin
    assert server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    timer = Timer(seconds, os.kill, (int(server.stdout.readline()), SIGKILL))
    timer.start()
    code = int(server.stdout.readline())
    timer.cancel()
    _idle.append(server)
    return code


def check_error(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """An error is one line with these words, a next step under it perhaps, no traceback, and its exit code."""
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert result.returncode == code, result.stderr
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
