"""Models on this machine: one readable folder each, under the platform's data directory or $MOE_HOME."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import small_file
from cli.names import check_store_name, is_hub_name, is_path, nearest, parse_hub_name
from quant.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from quant.journal import Unfinished

PARTIAL = ".partial"


def home() -> Path:
    """The root of everything that moe keeps."""
    if os.environ.get("MOE_HOME"):
        return Path(os.environ["MOE_HOME"]).expanduser()
    from platformdirs import user_data_path

    return user_data_path("moe", appauthor=False)


def models_folder() -> Path:
    """Where quantized models are."""
    return home() / "models"


def cache_folder() -> Path:
    """Where things are that can be made again."""
    if os.environ.get("MOE_HOME"):
        return home() / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("moe", appauthor=False)


@dataclass(frozen=True)
class Stored:
    """A model in the store; an incomplete one is a conversion that was stopped."""

    name: str
    path: Path
    complete: bool

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return folder_bytes(self.path)

    @property
    def modified(self) -> datetime:
        """When it last changed."""
        return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)

    @property
    def unfinished(self) -> Unfinished | None:
        """How far its conversion came; None for a whole model."""
        from quant.journal import unfinished

        return None if self.complete else unfinished(self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """Its manifest; empty where there is none that can be read."""
        from quant.errors import CheckpointError
        from quant.manifest_file import read_manifest

        try:
            return read_manifest(self.path)
        except CheckpointError:
            return {}


def folder_bytes(path: Path) -> int:
    """Size of a folder's files, links followed."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def stored() -> Iterator[Stored]:
    """Every model in the store, by name."""
    folder = models_folder()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield Stored(path.name.removesuffix(PARTIAL), path, not path.name.endswith(PARTIAL))


def find(name: str) -> Path:
    """The folder of a quantized model: a path, or a name in the store, whole or a unique beginning, in any case."""
    if is_path(name) and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    return find_stored(name).path


def find_stored(name: str) -> Stored:
    """A complete model in the store by its name or a unique beginning of it; raises ModelNotFound with near misses."""
    complete = [model for model in stored() if model.complete]
    exact = [model for model in complete if model.name.lower() == name.lower()]
    begun = exact or [model for model in complete if model.name.lower().startswith(name.lower())]
    if len(begun) == 1:
        return begun[0]
    if len(begun) > 1:
        raise UsageError(f"{name!r} can be {', '.join(model.name for model in begun)}", hint="write more of the name")
    names = [model.name for model in complete]
    close = nearest(name, names) or names[:3]
    hint = f"here: {', '.join(close)}" if close else "there is none here yet; try: moe demo, or moe pull ORG/NAME"
    if any(model.name.lower() == name.lower() for model in stored()):
        hint = "its conversion was stopped; moe list says what goes on with it"
    raise ModelNotFound(f"no model {name!r}", hint=hint)


def find_any(name: str) -> Stored:
    """A model in the store by its exact name, complete or not: for deleting it."""
    found = next((model for model in stored() if model.name == name), None)
    return found or find_stored(name)


def find_source(text: str) -> tuple[Path, str]:
    """(folder, origin) of a checkpoint: a folder, or a pulled model by its name on the Hub."""
    if Path(text).expanduser().is_dir():
        folder = Path(text).expanduser()
        return folder, folder.resolve().name
    if is_hub_name(text):
        name = parse_hub_name(text)
        for note in sources():
            if note["repo"] == name.repo and name.revision in (None, note["revision"]):
                missing = missing_shards(Path(note["path"]))
                if missing:
                    raise ModelNotFound(
                        f"{text} is here in part: {len(missing)} of its files are missing",
                        hint=f"go on: moe pull {text}",
                    )
                return Path(note["path"]), f"{name.repo}@{note['revision']}"
        raise ModelNotFound(f"{text} is not on this machine", hint=f"moe pull {text}")
    raise ModelNotFound(f"no folder and no pulled model {text!r}", hint="give a folder, or org/name after moe pull")


def newest() -> Path:
    """The model that changed last: what `moe chat` opens when none is named."""
    complete = [model for model in stored() if model.complete]
    if not complete:
        raise ModelNotFound(
            "there is no model here yet", hint="try: moe demo, or moe pull ORG/NAME and moe quantize ORG/NAME"
        )
    return max(complete, key=lambda model: model.modified).path


def place(name: str) -> Path:
    """Where a model of this name goes."""
    return models_folder() / check_store_name(name)


def target(out: str | None, origin: str, recipe: str = "") -> Path:
    """Where a model made of `origin` goes: to the folder or store name `out`, or under a name that says what it is."""
    name = out or origin.split("@")[0].rsplit("/", 1)[-1].lower() + (f"-{recipe}" if recipe else "")
    return Path(name).expanduser() if is_path(name) else place(name)


def shortest(path: Path) -> str:
    """What to type for a model: its name where it is in the store."""
    return path.name if path.parent == models_folder() else str(path)


def delete(model: Stored) -> None:
    """Delete a stored model, and nothing else: the folder must be a direct child of the store, and no link."""
    if model.path.is_symlink() or model.path.resolve().parent != models_folder().resolve():
        raise UsageError(f"{model.path} is not a folder of the store")
    shutil.rmtree(model.path)


def remember_source(repo: str, revision: str, path: Path) -> None:
    """Note that a checkpoint was pulled, so that `moe quantize` and `moe list` find it."""
    note = {"repo": repo, "revision": revision, "path": str(path)}
    small_file.write(_source_note(repo), json.dumps(note, indent=1) + "\n")


def sources() -> Iterator[dict[str, str]]:
    """Pulled checkpoints that are still there: repo, revision and path of each."""
    folder = home() / "sources"
    if folder.is_dir():
        for file in sorted(folder.glob("*.json")):
            try:
                note = json.loads(file.read_text())
                present = Path(note["path"]).is_dir()
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a note is only a pointer: one that can't be read points nowhere
            if present:
                yield note


def missing_shards(folder: Path) -> list[str]:
    """The files of weights that a checkpoint's index names and its folder lacks; the index where that is missing.

    A checkpoint in one file has none.
    """
    from quant.checkpoint import INDEX, SINGLE, read_json, tensors_by_file
    from quant.errors import CheckpointError

    if (folder / SINGLE).exists() and not (folder / INDEX).exists():
        return []
    try:
        return [name for name in tensors_by_file(read_json(folder / INDEX)) if not (folder / name).exists()]
    except CheckpointError:
        return [INDEX]


def forget_source(repo: str) -> None:
    """Drop the note of a pulled checkpoint."""
    _source_note(repo).unlink(missing_ok=True)


def _source_note(repo: str) -> Path:
    return home() / "sources" / f"{repo.replace('/', '--')}.json"
