"""A local server that speaks as much of the Hub's protocol as `moe pull` needs, and misbehaves when it is told to."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LFS_FROM = 200_000  # bytes; larger files are announced with a SHA-256, as Git LFS has them
PIECE = 1 << 14  # bytes sent at a time


@dataclass(frozen=True)
class Fault:
    """What one answer does instead of what was asked for.

    status, headers   another answer, without the body
    cut, stall        end the connection (`reset`: as a router that restarts), or be silent for `seconds`, after so
                      many bytes of the body
    flip              change the last byte
    page              send a web page, of the right size if `flip`
    size              announce and claim another size
    whole, shift      ignore the range, or begin so many bytes beside it
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    stall: int | None = None
    seconds: float = 0.0
    flip: bool = False
    page: bool = False
    size: int | None = None
    whole: bool = False
    shift: int = 0


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories; what it says can be changed.

    faults: {(method, path's end): [Fault, or a status, ...]}, each used once
    listed: {file: {changes of its entry in the tree}}, extra: entries besides; next_page: where its pages go on
    always: a fault of every answer with a file; rate: bytes a second of each connection
    on_sent: called with all bytes of files sent so far, after each piece
    """

    daemon_threads = True

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads = dict.fromkeys(repositories, COMMIT)
        self.commits = {(repo, COMMIT): folder for repo, folder in repositories.items()}
        self.faults: dict[tuple[str, str], list[Fault | int]] = {}
        self.always = Fault()
        self.rate = 0.0
        self.listed: dict[str, dict[str, Any]] = {}
        self.extra: list[Any] = []
        self.next_page = ""
        self.requests: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        self.on_sent: Callable[[int], None] = lambda sent: None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def move(self, repo: str, commit: str, folder: Path) -> None:
        """Let `main` be another commit, which holds this folder; the old one stays."""
        self.heads[repo] = commit
        self.commits[repo, commit] = folder

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients are killed here."""


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Run a server while the block runs."""
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
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
        if fault.status:
            codes = {404: "RepoNotFound", 403: "GatedRepo"}
            own = {"X-Error-Code": codes[fault.status]} if fault.status in codes else {}
            self._send(fault.status, b"", own | fault.headers)
        elif fault.page and not fault.flip:
            self._send(200, b"<!DOCTYPE html><title>Sign in</title>", {"Content-Type": "text/html"})
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"))
        else:
            self._file(path, fault)

    def _fault(self, path: str) -> Fault:
        for (method, end), faults in self.server.faults.items():
            if method == self.command and path.endswith(end) and faults:
                fault = faults.pop(0)
                return Fault(status=fault) if isinstance(fault, int) else fault
        return Fault() if path.startswith("/api/") else self.server.always

    def _api(self, path: str) -> None:
        repo = "/".join(path.split("/")[:2])
        rest = path[len(repo) :]
        head = self.server.heads.get(repo)
        revision = rest.split("/")[2] if rest.startswith(("/revision/", "/tree/")) else "main"
        commit = head if revision == "main" else revision
        folder = self.server.commits.get((repo, commit or ""))
        if head is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif folder is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif rest.startswith("/tree/"):
            entries = [entry(file) | self.server.listed.get(file.name, {}) for file in sorted(folder.iterdir())]
            self._page(path, entries + self.server.extra)
        else:
            self._json({"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": []})

    def _page(self, path: str, entries: list[Any]) -> None:
        """Three entries, and where there are more."""
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        more = f"{self.server.next_page or self.server.url}/api/models/{path}?recursive=true&cursor={start + 3}"
        own = {"Link": f'<{more}>; rel="next"'} if start + 3 < len(entries) else {}
        body = json.dumps(entries[start : start + 3]).encode()
        self._send(200, body, {"Content-Type": "application/json", **own})

    def _file(self, path: str, fault: Fault) -> None:
        org, name, _, revision, file = path.strip("/").split("/", 4)
        repo = f"{org}/{name}"
        commit = self.server.heads.get(repo, "") if revision == "main" else revision
        source = self.server.commits.get((repo, commit))
        if source is None or not (source / file).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        size, found = (source / file).stat().st_size, entry(source / file)
        said = size if fault.size is None else fault.size
        headers = {"ETag": f'"{found.get("lfs", found)["oid"]}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        start, stop = _range(self.headers.get("Range"), size)
        if "Range" in self.headers and not fault.whole:
            start = min(max(0, start + fault.shift), size)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{said}"
            self._stream(206, source / file, start, stop, headers, fault)
        else:
            self._stream(200, source / file, 0, size, headers | {"Content-Length": str(said)}, fault)

    def _stream(self, status: int, path: Path, start: int, stop: int, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(stop - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        sent, size = 0, path.stat().st_size
        with path.open("rb") as file:
            file.seek(start)
            while start + sent < stop:
                data = bytearray(file.read(min(PIECE, stop - start - sent, (fault.cut or size) - sent or 1)))
                if fault.flip and start + sent + len(data) == size:
                    data[-1] ^= 1
                if fault.page and start + sent == 0:
                    data[:15] = b"<!doctype html>"
                if fault.cut is not None and sent >= fault.cut:
                    self._end(fault.reset)
                    return
                if fault.stall is not None and sent >= fault.stall:
                    time.sleep(fault.seconds)
                    self.close_connection = True
                    return
                self.wfile.write(data)
                sent += len(data)
                self.server.sent[path.name] += len(data)
                self.server.on_sent(self.server.sent.total())
                if self.server.rate:
                    time.sleep(len(data) / self.server.rate)

    def _end(self, reset: bool) -> None:
        """End the connection in the middle; a reset loses what the other side has not read yet."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _range(header: str | None, size: int) -> tuple[int, int]:
    first, _, last = (header or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(first), min(int(last) + 1, size) if last else size


def entry(file: Path) -> dict[str, Any]:
    """A file as the tree lists it."""
    status = file.stat()
    return _described(file, status.st_size, status.st_mtime_ns)


@lru_cache
def _described(file: Path, size: int, _: int) -> dict[str, Any]:
    git, lfs = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
    with file.open("rb") as opened:
        while data := opened.read(1 << 22):
            git.update(data)
            lfs.update(data)
    found: dict[str, Any] = {"type": "file", "path": file.name, "size": size, "oid": git.hexdigest()}
    if size >= LFS_FROM:
        found["lfs"] = {"oid": lfs.hexdigest(), "size": size, "pointerSize": 134}
    return found
