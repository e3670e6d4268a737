"""The command that goes on with a conversion that was stopped, from any folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from cli.names import is_path
from cli.recipe_choice import Choice

_UNSAID = ("--recipe", "int4")  # what `moe quantize` does where nothing is asked for


def quantize_command(source: str, choice: Choice, out: str | None) -> str:
    """`moe quantize` of a folder or a pulled model."""
    folder = Path(source).expanduser()
    given = str(folder.resolve()) if folder.is_dir() else source
    return shlex.join(["moe", "quantize", given, *_asked(choice), *_out(out)])


def pull_command(name: str, choice: Choice | None, out: str | None) -> str:
    """`moe pull` of a repository at a commit."""
    return shlex.join(["moe", "pull", name, *_asked(choice), *_out(out)])


def _asked(choice: Choice | None) -> list[str]:
    if choice is None:
        return []
    asked = [] if choice.asked == _UNSAID else list(choice.asked)
    return asked if choice.statistics is None else [*asked, "--stats", str(choice.statistics.path.resolve())]


def _out(out: str | None) -> list[str]:
    if out is None:
        return []
    return ["--out", str(Path(out).expanduser().resolve()) if is_path(out) else out]
