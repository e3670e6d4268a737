"""What a person or a program sees: answers and data on stdout, everything else on stderr. The only door to rich."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import IO, Any

# Everything that moves the cursor, sets colours or titles; tab and newline are text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def clean(text: str) -> str:
    """Text from a model or a download, without what a terminal would obey."""
    return _CONTROL.sub("", text)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that shows colours."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def write(text: str, *, dim: bool = False) -> None:
    """Put part of an answer on stdout at once."""
    shown = clean(text) if sys.stdout.isatty() else text
    sys.stdout.write(f"{_DIM}{shown}{_PLAIN}" if dim and is_terminal(sys.stdout) else shown)
    sys.stdout.flush()


def line(text: str) -> None:
    """Put a line of data on stdout."""
    write(text + "\n")


def as_json(value: Any) -> None:
    """Put one JSON value on stdout."""
    line(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell the person something, on stderr, dimmed."""
    text = clean(text)
    print(f"{_DIM}{text}{_PLAIN}" if is_terminal(sys.stderr) else text, file=sys.stderr, flush=True)


def transient(text: str) -> None:
    """Replace the current line of a terminal's stderr, until the next call clears it."""
    if is_terminal(sys.stderr):
        print(f"\r\x1b[K{_DIM}{clean(text)}{_PLAIN}", end="", file=sys.stderr, flush=True)


def complain(message: str, hint: str | None = None) -> None:
    """Report an error, on stderr, with the next step under it."""
    print(f"error: {clean(message)}", file=sys.stderr)
    if hint:
        print(f"  {clean(hint)}", file=sys.stderr)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, to_stderr: bool = False) -> None:
    """Columns, numbers (cells that begin with a digit) to the right."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in [list(headings), *cells]) for n in range(len(headings))]
    right = [all(row[n][:1].isdigit() for row in cells) and bool(cells) for n in range(len(headings))]
    for row in [list(headings), *cells]:
        text = "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        if to_stderr:
            print(text, file=sys.stderr)
        else:
            line(text)


def size(count: float) -> str:
    """Bytes as people read them: 14.8 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def weights(count: int) -> str:
    """A number of weights: 7.35 M, 228.69 B."""
    return f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"


@contextmanager
def progress(
    title: str, total: int, *, done: int = 0, amount: Callable[[float], str] = size
) -> Iterator[Callable[..., None]]:
    """A bar on stderr with rate and time left; yields a function to call with what is done so far, and with a note.

    `total` and `done` are bytes, unless `amount` writes them as something else. Where stderr is not a terminal, a line
    every tenth of the way.
    """
    if not is_terminal(sys.stderr):
        yield _tenths(title, total, done, amount)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amounts(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            rate = f", {amount(speed)}/s" if speed else ""
            return Text(f"{amount(task.completed)} of {amount(task.total or 0)}{rate}")

    note = TextColumn("{task.fields[note]}", markup=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), Amounts(), TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(clean(title), total=total, completed=done, note="")
        yield lambda now, note="": bars.update(task, completed=now, note=clean(note))


def _tenths(title: str, total: int, done: int, amount: Callable[[float], str]) -> Callable[..., None]:
    shown, start = 10 * done // total if total else 0, monotonic()

    def update(now: int, note: str = "") -> None:
        nonlocal shown
        if total and 10 * now // total > shown:
            shown = 10 * now // total
            left = (monotonic() - start) * (total - now) / max(now - done, 1)
            rest = f", {_duration(left)} left" if now < total else ""
            say(f"{title}: {10 * shown}% of {amount(total)}{rest}{f', {note}' if note else ''}")

    return update


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def busy(title: str) -> Iterator[None]:
    """A spinner on stderr while something takes its time."""
    if not is_terminal(sys.stderr):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(clean(title)):
        yield
