"""A command that is killed: at a byte that the server sends, at a moment, or before its n-th sync or rename."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.command import environment
from tests.hub_server import Hub

CHECKPOINT = 1 << 15  # bytes between two syncs of a part, in place of many millions
SMALL = f"import cli.part_file\ncli.part_file.CHECKPOINT_BYTES = {CHECKPOINT}\n"
AT_CALL = """
import os, signal
left = {n}
def killing(real):
    def call(*arguments, **options):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
for name in {names}:
    setattr(os, name, killing(getattr(os, name)))
"""
CALLS = {"sync": ("fsync",), "name": ("replace", "rename", "symlink")}
MAIN = "from cli.__main__ import main\nmain()"


def start(*arguments: str, home: Path, hub: Hub, before: str = "") -> subprocess.Popen[str]:
    """A command under way, with small checkpoints."""
    return subprocess.Popen(
        [sys.executable, "-c", SMALL + before + MAIN, *arguments],
        env=environment(home, HF_ENDPOINT=hub.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[bool, str]:
    """(whether it ended by itself, and well; its stderr); anything else than that or our kill is a failure."""
    _, stderr = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), stderr
    return process.returncode == 0, stderr


def at_byte(hub: Hub, count: int, act: Callable[[], None]) -> None:
    """Do something once, when the server has sent so many bytes more."""
    left = [hub.sent.total() + count]

    def look(sent: int) -> None:
        if left and sent >= left[0]:
            left.clear()
            act()

    hub.on_sent = look


def kill_after(process: subprocess.Popen[str], seconds: float) -> threading.Timer:
    """Kill it after a while."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def at_call(kind: str, n: int) -> str:
    """What makes a command die before the n-th time that it syncs or names a file: for `start`."""
    return AT_CALL.format(n=n, names=CALLS[kind])
