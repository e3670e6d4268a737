"""Bytes of a file on the Hub, over the library's own HTTP client: its proxy, certificates and token hold here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cli.hub_errors import WebPage, causes
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter
from cli.names import HubName
from cli.patience import Attempts
from quant.errors import AccessError, CheckpointError

LONGEST = 10 << 30  # bytes asked for at once: what serves the Hub's files refuses very long answers
TIMEOUT = 30.0  # seconds, of what is not a file
_PAGES = 1000  # of a list of files, at most
_NOT_THIS_WAY = (400, 404, 405, 410, 416, 501)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


def tree(name: HubName, commit: str | None) -> Iterator[Any]:
    """Every entry of a commit's tree as the Hub sends it; the library's own call waits for ever.

    Raises the library's and its client's errors, and CheckpointError where pages lead elsewhere or do not end.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url: str | None = f"{constants.ENDPOINT}/api/models/{name.repo}/tree/{commit}?recursive=true"
    for _ in range(_PAGES):
        if url is None:
            return
        if not url.startswith(constants.ENDPOINT + "/"):  # it would be sent the token
            raise CheckpointError(f"the list of {name}'s files goes on at {url[:80]}, which is not the Hub")
        response = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT, follow_redirects=True)
        hf_raise_for_status(response)
        yield from response.json()
        url = response.links.get("next", {}).get("url")
    raise CheckpointError(f"the list of {name}'s files does not end")


class XetOnly(AccessError):
    """The Hub does not give a file out over plain HTTP."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__(
            f"{file.name} is given out through Xet alone, whole",
            hint="moe pull it without --quantize, then moe quantize",
        )


def pieces(repository: Repository, file: RemoteFile, start: int, stop: int, meter: Meter) -> Iterator[bytes]:
    """Bytes start..stop of a file as they come, all of them: a cut connection and a busy server are tried again.

    Raises XetOnly, AccessError when patience ends, and CheckpointError where the server has another file.
    """
    attempts = Attempts(repository.name, meter.say, reached=meter.received > 0)
    while start < stop:
        before = start
        try:
            with _stretch(repository, file, start, stop) as (skipped, parts):
                meter.came(skipped)
                meter.again(skipped)
                for part in parts:
                    attempts.progressed()
                    meter.came(len(part))
                    start += len(part)
                    yield part
            if start == before:
                raise ConnectionError(f"{file.name}: the answer was empty")
        except Exception as error:  # the library's own, its HTTP client's, and ours
            if file.xet and any(_status(cause) in _NOT_THIS_WAY for cause in causes(error)):
                raise XetOnly(file) from error
            attempts.failed(error)


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


@contextmanager
def _stretch(repository: Repository, file: RemoteFile, start: int, stop: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """(bytes before them that come too, bytes start..stop of a file as they come).

    The pieces may end early: at LONGEST, or where the server has closed the connection.

    Raises the library's and its client's errors, WebPage, and CheckpointError where the server has another file.
    """
    from huggingface_hub import constants, get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    stop = min(stop, start + LONGEST)
    url = hf_hub_url(repository.name.repo, file.name, revision=repository.commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        hf_raise_for_status(response)
        begins = _begins(response, file, start)
        yield start - begins, _between(response.iter_bytes(), start - begins, stop - begins)


def _begins(response: Any, file: RemoteFile, start: int) -> int:
    """Where in the file the body begins."""
    headers = response.headers
    if headers.get("Content-Type", "").startswith("text/html") and not file.name.endswith(".html"):
        raise WebPage(file.name)
    if response.status_code != 206:  # the server does not know ranges: everything comes again
        length = headers.get("Content-Length")
        if length is not None and "Content-Encoding" not in headers:
            _check_size(file, length)
        return 0
    found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        raise CheckpointError(
            f"{file.name}: asked for byte {start} on, the server sends {headers.get('Content-Range')!r}",
            hint="try again later, or without the proxy",
        )
    if found[3] != "*":
        _check_size(file, found[3])
    return start


def _check_size(file: RemoteFile, found: str) -> None:
    if found != str(file.size):
        raise CheckpointError(
            f"{file.name}: the Hub lists {file.size} bytes, its server has {found[:20]}", hint="try again later"
        )


def _between(pieces: Iterator[bytes], start: int, stop: int) -> Iterator[bytes]:
    at = 0
    for piece in pieces:
        part = piece[max(0, start - at) : stop - at]
        at += len(piece)
        if part:
            yield part
        if at >= stop:
            return
