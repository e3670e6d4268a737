"""The command that goes on with a conversion that was stopped, from any folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from cli.names import is_path


def quantize_command(source: str, recipe: str, out: str | None) -> str:
    """`moe quantize` of a folder or a pulled model."""
    folder = Path(source).expanduser()
    given = str(folder.resolve()) if folder.is_dir() else source
    return shlex.join(["moe", "quantize", given, *_recipe("--recipe", recipe, "int4"), *_out(out)])


def pull_command(name: str, recipe: str | None, out: str | None) -> str:
    """`moe pull` of a repository at a commit."""
    return shlex.join(["moe", "pull", name, *_recipe("--quantize", recipe, None), *_out(out)])


def _recipe(option: str, recipe: str | None, unsaid: str | None) -> list[str]:
    if recipe is None or recipe == unsaid:
        return []
    return [option, str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe]


def _out(out: str | None) -> list[str]:
    if out is None:
        return []
    return ["--out", str(Path(out).expanduser().resolve()) if is_path(out) else out]
