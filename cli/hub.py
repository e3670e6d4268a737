"""Checkpoints from the Hugging Face Hub: what a repository holds, which of it we need, and getting it intact.

`huggingface_hub` moves the bytes and keeps its own cache; what it does not do is done here: names are checked before
the first byte, every file's checksum after the last, and all files come from one commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.hub_errors import explained, is_passing
from cli.names import HubName
from quant.checkpoint import INDEX, SINGLE
from quant.errors import CheckpointError, ResourceError

ATTEMPTS = 5
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_SMALL = re.compile(r".*\.(json|jinja|model|txt)|LICENSE.*")
_SPARE = 256 << 20  # bytes of disk kept free beside the download


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size, and its SHA-256 where it is large, or its git id where it is small."""

    name: str
    size: int
    sha256: str | None
    git_id: str


@dataclass(frozen=True)
class Repository:
    """The files at the top of a repository at one commit."""

    name: HubName
    commit: str
    files: dict[str, RemoteFile]


def look_up(name: HubName) -> Repository:
    """What the Hub says of a repository; raises ModelNotFound, AccessError."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    try:
        commit = api.model_info(name.repo, revision=name.revision, timeout=30).sha
        entries = list(api.list_repo_tree(name.repo, recursive=True, revision=commit))
    except Exception as error:  # the library's own, its HTTP client's, and what malformed answers raise inside it
        raise explained(error, name) from error
    files = {
        entry.path: RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in entries
        if isinstance(entry, RepoFile) and _SAFE.fullmatch(entry.path)
    }
    if not commit or "config.json" not in files:
        raise CheckpointError(f"{name} holds no config.json: it is not a model for transformers")
    return Repository(name, commit, files)


def small_files(repository: Repository) -> list[RemoteFile]:
    """Config, tokenizer, template, licence: what is needed to judge a model before its weights."""
    return [file for file in repository.files.values() if _SMALL.fullmatch(file.name)]


def weight_files(repository: Repository, folder: Path) -> list[RemoteFile]:
    """The shards that the index names, once the small files are in `folder`; raises CheckpointError."""
    if INDEX not in repository.files:
        if SINGLE in repository.files:
            return [repository.files[SINGLE]]
        raise CheckpointError(
            f"{repository.name} holds neither {INDEX} nor {SINGLE}", hint="choose one with safetensors"
        )
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        return [repository.files[name] for name in names]
    except KeyError as error:
        raise CheckpointError(
            f"{repository.name}: {INDEX} names {error}, which the repository does not hold"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{repository.name}: {INDEX}: {error}") from error


def cached(repository: Repository, file: RemoteFile) -> Path | None:
    """Where a file already is in the cache, if it is there and as long as it should be."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.name.repo, file.name, revision=repository.commit)
    path = Path(found) if isinstance(found, str) else None
    return path if path and path.exists() and path.stat().st_size == file.size else None


def free_bytes() -> int:
    """Free disk where the cache is."""
    from huggingface_hub.constants import HF_HUB_CACHE

    at = Path(HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(p for p in (at, *at.parents) if p.exists())).free


def check_room(needed: int) -> None:
    """Raise ResourceError unless that many bytes fit beside what must stay free."""
    from huggingface_hub.constants import HF_HUB_CACHE

    free = free_bytes()
    if needed + _SPARE > free:
        raise ResourceError(
            f"{(needed + _SPARE) / 1e9:.1f} GB needed at {HF_HUB_CACHE}, {free / 1e9:.1f} GB free",
            hint="free some space, or set HF_HUB_CACHE to a folder on a larger disk",
        )


def fetch(repository: Repository, files: list[RemoteFile], on_bytes: Callable[[int], None] = lambda done: None) -> Path:
    """Bring the files into the cache, each checked against the Hub's checksum, and return their folder.

    What is there already is not fetched again; a file that differs is fetched once more. `on_bytes` is told the bytes
    of this call's files that are here. Raises AccessError, ResourceError, and CheckpointError for a damaged file.
    """
    done, folder = 0, Path()
    for file in files:
        path = cached(repository, file)
        if path is None:
            path = _fetch_checked(repository, file, lambda now, before=done: on_bytes(before + now))  # type: ignore[misc]
        done += file.size
        on_bytes(done)
        folder = path.parent
    return folder


def _fetch_checked(repository: Repository, file: RemoteFile, on_bytes: Callable[[int], None]) -> Path:
    for force in (False, True):
        path = _fetch_once(repository, file, force, on_bytes)
        if _intact(path, file):
            return path
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    raise CheckpointError(f"{file.name} came damaged twice: its checksum is not the Hub's", hint="try again later")


def _fetch_once(repository: Repository, file: RemoteFile, force: bool, on_bytes: Callable[[int], None]) -> Path:
    from huggingface_hub import hf_hub_download

    for attempt in range(ATTEMPTS):
        try:
            path = hf_hub_download(
                repository.name.repo,
                file.name,
                revision=repository.commit,
                force_download=force,
                tqdm_class=_reporting_to(on_bytes),
            )
            return Path(str(path))
        except Exception as error:  # see look_up
            if attempt + 1 == ATTEMPTS or not is_passing(error):
                raise explained(error, repository.name) from error
            time.sleep(2**attempt)
    raise AssertionError


def _reporting_to(on_bytes: Callable[[int], None]) -> Any:
    """A progress bar class that draws nothing and passes on how many bytes are there, which never become fewer."""
    from huggingface_hub.utils.tqdm import tqdm

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": False})

        def display(self, *args: Any, **options: Any) -> None:
            """Nothing: the command draws its own bar."""

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            on_bytes(int(self.n))
            return None

    return Reporter


def _intact(path: Path, file: RemoteFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    git_head = b"blob %d\0" % file.size  # git's own id of a file hashes this before the file
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(git_head, usedforsecurity=False)
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.git_id)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as opened:
        while piece := opened.read(16 << 20):
            yield piece


def delete(repo: str) -> int:
    """Remove every revision of a repository from the Hub's cache; returns the bytes freed."""
    from huggingface_hub import scan_cache_dir

    scan = scan_cache_dir()
    commits = [r.commit_hash for found in scan.repos if found.repo_id == repo for r in found.revisions]
    strategy = scan.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size
