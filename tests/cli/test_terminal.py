"""`moe` at a terminal: keys, pastes and Ctrl-C."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import DEMO, ROOT, Quantized


class Terminal:
    """A `moe` process at a terminal of its own."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "-m", "cli", *arguments], environment)
        self.unread = ""  # what has come and no wait has passed

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Read to the end of a text."""
        end = time.monotonic() + seconds
        while text not in self.unread:
            assert time.monotonic() < end, f"no {text!r} in {self.unread[-2000:]!r}"
            if select.select([self._terminal], [], [], 1)[0]:
                self.unread += os.read(self._terminal, 65536).decode(errors="replace")
        self.unread = self.unread.split(text, 1)[1]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._terminal, text.encode())

    def exit_code(self) -> int:
        """How it ended."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def environment(home: Path) -> dict[str, str]:
    """Of a process whose store is `home`."""
    return os.environ | {"MOE_HOME": str(home), "PYTHONPATH": str(ROOT), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}


def test_chat(quantized: Quantized, home: Path) -> None:
    terminal = Terminal(["chat", str(quantized(DEMO, "int4")), "--temp", "0"], environment(home))
    terminal.wait_for(">>> ")
    terminal.type("What is 4\x1b\r+ 5?\r")  # Alt-Enter between
    terminal.wait_for("stop ]")
    terminal.wait_for(">>> ")
    terminal.type("Tell me a story about a fox.\r")
    terminal.wait_for("wants")  # it is thinking
    terminal.type("\x03")
    terminal.wait_for(">>> ")
    terminal.type("\x1b[200~Who\nare you?\x1b[201~\r")  # a paste of two lines
    terminal.wait_for("stop ]")  # what it answers depends on how much was said before Ctrl-C
    terminal.wait_for(">>> ")
    terminal.type("/bye\r")
    assert terminal.exit_code() == 0
    saved = json.loads(next((home / "sessions").glob("*.json")).read_text())["messages"]
    assert [m["role"] for m in saved] == ["user", "assistant"] * 3
    assert saved[0]["content"] == "What is 4\n+ 5?"
    assert saved[4]["content"] == "Who\nare you?"
    assert saved[5]["content"]
    assert (home / "history").stat().st_mode & 0o777 == 0o600


def test_ctrl_c_ends_a_run_with_130_and_keeps_what_was_said(quantized: Quantized, home: Path) -> None:
    rambling = ["--thinking", "--temp", "5", "--min-p", "0", "--top-p", "1", "--top-k", "0"]
    command = [sys.executable, "-m", "cli", "run", str(quantized(DEMO, "bf16")), "Tell me a story.", *rambling]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment(home), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout
        first = os.read(process.stdout.fileno(), 1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert first
    assert process.returncode == 130, err
    assert b"Traceback" not in err
