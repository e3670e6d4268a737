"""The Hub's own cache on this machine, in the library's layout, so that other programs find what we fetch.

models--ORG--NAME/blobs/KEY                a file's content under its ETag, while it comes KEY.part
models--ORG--NAME/snapshots/COMMIT/FILE    a link to it
models--ORG--NAME/refs/REVISION            the commit that a branch was at
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cli import checksum, small_file
from cli.hub_listing import RemoteFile, Repository
from cli.part_file import drop_journal, durable_bytes
from quant.errors import ResourceError
from quant.writer import sync_folder, write_error

SPARE = 256 << 20  # bytes of disk kept free beside a download


def root() -> Path:
    """The cache's folder."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE).absolute()


def blob(repository: Repository, file: RemoteFile) -> Path:
    """Where a file's content belongs."""
    return _folder(repository) / "blobs" / file.key


def snapshot(repository: Repository) -> Path:
    """The folder of a commit, where files have their names."""
    return _folder(repository) / "snapshots" / repository.commit


def _folder(repository: Repository) -> Path:
    return root() / ("models--" + repository.name.repo.replace("/", "--"))


def found(repository: Repository, file: RemoteFile) -> Path | None:
    """A file that is here and as long as it should be: under its name, or under its key alone."""
    for path in (snapshot(repository) / file.name, blob(repository, file)):
        if path.is_file() and path.stat().st_size == file.size:
            return path
    return None


def missing_bytes(repository: Repository, file: RemoteFile) -> int:
    """Bytes of a file that are still to be fetched."""
    return 0 if found(repository, file) else file.size - durable_bytes(blob(repository, file))


def verified(repository: Repository, file: RemoteFile) -> Path | None:
    """A file that is here and intact, under its name; one that is damaged is removed.

    Others write to the cache too and check no checksums, so that each file is read once before it is trusted.
    """
    path = found(repository, file)
    if path is None:
        return None
    drop_journal(blob(repository, file))
    if not checksum.is_known(path, file):
        if not checksum.is_intact(path, file):
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            return None
        checksum.remember(path, file)
    return link(repository, file)


def link(repository: Repository, file: RemoteFile) -> Path:
    """Give a file that is under its key its name too, and return that; raises ResourceError."""
    content, path = blob(repository, file), snapshot(repository) / file.name
    if path.exists() and (not content.exists() or path.samefile(content)):
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            path.symlink_to(os.path.relpath(content, path.parent))
        except FileExistsError:  # another process has just made it
            return path
        except OSError:  # a file system without links: the file itself moves, as the library does it
            content.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(error, path) from error
    return path


def note_revision(repository: Repository) -> None:
    """Say which commit the asked-for branch is at; raises ResourceError."""
    revision = repository.name.revision or "main"
    if revision == repository.commit:
        return
    path = _folder(repository) / "refs" / revision
    try:
        small_file.write(path, repository.commit)
    except OSError as error:
        raise write_error(error, path) from error


def free_bytes(folder: Path) -> int:
    """Free disk where a folder is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.is_dir())).free


def fits(needed: int, folder: Path) -> bool:
    """Whether so many bytes fit beside what must stay free."""
    return needed + SPARE <= free_bytes(folder)


def check_room(needed: int, folder: Path, hint: str) -> None:
    """Raise ResourceError unless that many bytes fit beside what must stay free."""
    if needed and not fits(needed, folder):
        free = free_bytes(folder)
        raise ResourceError(f"{(needed + SPARE) / 1e9:.1f} GB needed at {folder}, {free / 1e9:.1f} GB free", hint=hint)


def delete(repo: str) -> int:
    """Remove every revision of a repository from the cache; returns the bytes freed."""
    from huggingface_hub import scan_cache_dir

    scan = scan_cache_dir()
    commits = [r.commit_hash for cached in scan.repos if cached.repo_id == repo for r in cached.revisions]
    strategy = scan.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size
