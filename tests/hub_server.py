"""A local server that speaks as much of the Hub's protocol as `moe pull` needs, and misbehaves when it is told to."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LFS_FROM = 200_000  # bytes; larger files are announced with a SHA-256, as Git LFS has them


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories; `faults` and `gone` change what it says.

    faults: {(method, path's end): [status or "flip", ...]}, each used once
    listed: {file: {changes of its entry in the tree}}
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.faults: dict[tuple[str, str], list[int | str]] = {}
        self.listed: dict[str, dict[str, Any]] = {}
        self.requests: Counter[tuple[str, str]] = Counter()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, file: str) -> int:
        """How often the content of a file was asked for."""
        return sum(n for (method, path), n in self.requests.items() if method == "GET" and path.endswith("/" + file))


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Run a server while the block runs."""
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """Headers alone."""
        self._answer()

    def do_GET(self) -> None:
        """Headers and body."""
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests[self.command, path] += 1
        fault = self._fault(path)
        if isinstance(fault, int):
            codes = {404: "RepoNotFound", 403: "GatedRepo"}
            self._send(fault, b"", {"X-Error-Code": codes[fault]} if fault in codes else {})
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(path, flip=fault == "flip")

    def _fault(self, path: str) -> int | str | None:
        for (method, end), faults in self.server.faults.items():
            if method == self.command and path.endswith(end) and faults:
                return faults.pop(0)
        return None

    def _api(self, path: str) -> None:
        repo = "/".join(path.split("/")[:2])
        folder, rest = self.server.repositories.get(repo), path[len(repo) :]
        if folder is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif rest.startswith("/revision/") and rest.removeprefix("/revision/") not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif rest.startswith("/tree/"):
            self._json([_entry(file) | self.server.listed.get(file.name, {}) for file in sorted(folder.iterdir())])
        else:
            self._json({"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": []})

    def _file(self, path: str, flip: bool) -> None:
        org, name, _, revision, file = path.strip("/").split("/", 4)
        source = self.server.repositories.get(f"{org}/{name}")
        if source is None or revision not in ("main", COMMIT) or not (source / file).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data, entry = (source / file).read_bytes(), _entry(source / file)
        etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        if int(start or 0):
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[int(start) :], headers)
        else:
            self._send(200, data, headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _entry(file: Path) -> dict[str, Any]:
    """A file as the tree lists it."""
    data = file.read_bytes()
    git_id = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": file.name, "size": len(data), "oid": git_id}
    if len(data) >= LFS_FROM:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry
