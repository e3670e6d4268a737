"""The files of a repository as the Hub lists them, with every claim checked: names become paths, ids file names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cli.names import HubName
from quant.errors import CheckpointError

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\\]")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its size, and its SHA-256 where it is large, or its git id where it is small."""

    name: str
    size: int
    sha256: str | None
    git_id: str
    xet: bool = False

    @property
    def key(self) -> str:
        """What identifies its content, and names it in the Hub's cache: its ETag."""
        return self.sha256 or self.git_id


@dataclass(frozen=True)
class Repository:
    """The files at the top of a repository at one commit."""

    name: HubName
    commit: str
    files: dict[str, RemoteFile]


def checked(name: HubName, commit: str | None, entries: Iterable[Any]) -> Repository:
    """A repository of the tree's entries; raises CheckpointError where one is not what a careful server would send.

    Files in folders and files of odd names are left out, since no model needs them.
    """
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CheckpointError(f"the Hub names no commit for {name}: {commit!r}", hint="run the same command again")
    files: dict[str, RemoteFile] = {}
    for entry in entries:
        _check_name(name, entry.path)
        if _SAFE.fullmatch(entry.path):
            if entry.path in files:
                raise CheckpointError(f"the Hub lists {entry.path} of {name} twice")
            files[entry.path] = _file(name, entry)
    return Repository(name, commit, files)


def _check_name(repository: HubName, path: Any) -> None:
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") for part in parts) or _CONTROL.search(path) or re.match("[A-Za-z]:", path):
        raise CheckpointError(
            f"{repository} lists a file {path!r}, which is no name inside a folder",
            hint="nothing was fetched; do not trust this repository",
        )


def _file(repository: HubName, entry: Any) -> RemoteFile:
    size, git_id, lfs = entry.size, entry.blob_id, entry.lfs
    sha256 = lfs.sha256 if lfs else None
    sizes = {size, lfs.size} if lfs else {size}
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 62 for n in sizes):
        raise CheckpointError(f"the Hub lists {entry.path} of {repository} with the size {size!r}")
    if len(sizes) > 1:
        raise CheckpointError(f"the Hub lists {entry.path} of {repository} as {size} bytes, and as {lfs.size}")
    if not _is_hex(git_id, 40) or (lfs and not _is_hex(sha256, 64)):
        raise CheckpointError(f"the Hub lists {entry.path} of {repository} without a checksum")
    return RemoteFile(entry.path, size, sha256, git_id, bool(getattr(entry, "xet_hash", None)))


def _is_hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
