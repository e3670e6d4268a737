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
    """A repository of the tree's entries as the Hub sends them; raises CheckpointError where one can't be.

    Files in folders and files of odd names are left out, since no model needs them.
    """
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CheckpointError(f"the Hub names no commit for {name}: {commit!r}", hint="run the same command again")
    files: dict[str, RemoteFile] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise CheckpointError(f"the Hub's list of {name}'s files makes no sense", hint="run the same command again")
        path = _checked_name(name, entry.get("path"))
        if entry.get("type") == "file" and _SAFE.fullmatch(path):
            if path in files:
                raise CheckpointError(f"the Hub lists {path} of {name} twice")
            files[path] = _file(name, path, entry)
    return Repository(name, commit, files)


def _checked_name(repository: HubName, path: Any) -> str:
    parts = path.split("/") if isinstance(path, str) else [""]
    if any(part in ("", ".", "..") for part in parts) or _CONTROL.search(path) or re.match("[A-Za-z]:", path):
        raise CheckpointError(
            f"{repository} lists a file {path!r}, which is no name inside a folder",
            hint="nothing was fetched; do not trust this repository",
        )
    return str(path)


def _file(repository: HubName, path: str, entry: dict[str, Any]) -> RemoteFile:
    size, git_id = entry.get("size"), entry.get("oid")
    lfs = entry.get("lfs") or {"size": size}
    if not isinstance(lfs, dict) or lfs.get("size") != size:
        raise CheckpointError(f"the Hub lists {path} of {repository} as {size} bytes, and as {lfs}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise CheckpointError(f"the Hub lists {path} of {repository} with the size {size!r}")
    sha256 = lfs.get("oid")
    if not isinstance(git_id, str) or not _is_hex(git_id, 40) or ("lfs" in entry and not _is_hex(sha256, 64)):
        raise CheckpointError(f"the Hub lists {path} of {repository} without a checksum")
    return RemoteFile(path, size, sha256, git_id, bool(entry.get("xetHash")))


def _is_hex(value: Any, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
