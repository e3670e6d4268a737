"""What went wrong with the Hub, said so that a person knows what to do."""

from __future__ import annotations

import errno
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

from cli.names import HubName
from quant.errors import AccessError, CheckpointError, ModelNotFound, MoeError
from quant.writer import write_error

_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)
_AGAIN = "run the same command again: what is here is kept"


class WebPage(AccessError):
    """A page for people came where data should be: a proxy's, or one to sign in to a network."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"a web page came instead of {where}",
            hint="a proxy or a network's sign-in page stands in between: open the Hub in a browser, then " + _AGAIN,
        )


def explained(error: BaseException, name: HubName) -> MoeError:
    """The error to show; the library often wraps the true one."""
    from huggingface_hub import constants

    chain = list(causes(error))
    for cause in chain:
        if isinstance(cause, MoeError):
            return cause
        found = _of_this_machine(cause) or _of_the_repository(cause, name)
        if found:
            return found
    for cause in chain:
        status = _status(cause)
        if status in (401, 403):
            return _refused(status, name)
        if status is not None:
            return AccessError(f"the Hub answered {status} for {name.repo}", hint=_AGAIN)
    if is_passing(error):
        return AccessError(
            f"{constants.ENDPOINT} can't be reached: {chain[-1]}", hint=f"check the connection and {_AGAIN}"
        )
    if any(isinstance(cause, json.JSONDecodeError) for cause in chain):
        return WebPage("the Hub's answer")
    return CheckpointError(f"the Hub's answer for {name.repo} makes no sense: {type(error).__name__}: {error}")


def _of_this_machine(cause: BaseException) -> MoeError | None:
    from huggingface_hub import errors as hub

    if isinstance(cause, ssl.SSLCertVerificationError):
        return AccessError(
            f"the Hub's certificate is not trusted: {cause.verify_message}",
            hint="a proxy may be in between: set SSL_CERT_FILE to its certificate, or leave its network",
        )
    # A socket's errors name no file.
    if isinstance(cause, OSError) and (cause.filename or cause.errno in (errno.ENOSPC, errno.EDQUOT)):
        return write_error(cause, Path(str(cause.filename or "the download")))
    if isinstance(cause, hub.OfflineModeIsEnabled):
        return AccessError("HF_HUB_OFFLINE is set", hint="unset it to download")
    return None


def _of_the_repository(cause: BaseException, name: HubName) -> MoeError | None:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    log_in = "" if _has_token() else ", then: hf auth login (or set HF_TOKEN)"
    if isinstance(cause, hub.GatedRepoError):
        return AccessError(
            f"{name.repo} is gated", hint=f"accept its licence at {constants.ENDPOINT}/{name.repo}{log_in}"
        )
    if isinstance(cause, hub.RevisionNotFoundError):
        return ModelNotFound(f"{name.repo} has no revision {name.revision!r}", hint="leave it out for the latest")
    if isinstance(cause, hub.RepositoryNotFoundError):
        private = "your token may not read it" if _has_token() else "hf auth login (or set HF_TOKEN)"
        return ModelNotFound(
            f"{name.repo} is not on the Hub, or is private", hint=f"check the spelling; if it is private: {private}"
        )
    return None


def _refused(status: int, name: HubName) -> AccessError:
    if status == 401 and _has_token():
        return AccessError(
            f"the Hub does not accept your token for {name.repo} (401)",
            hint="hf auth login for a new one; a public model needs none: unset HF_TOKEN, or hf auth logout",
        )
    return AccessError(f"the Hub refuses {name.repo} ({status})", hint="hf auth login, or set HF_TOKEN")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: the network, or a server that is busy."""
    chain = list(causes(error))
    if any(isinstance(cause, MoeError) or _of_this_machine(cause) for cause in chain):
        return False
    statuses = [status for status in map(_status, chain) if status is not None]
    if statuses:
        return statuses[0] in _PASSING_STATUS
    return any(isinstance(c, ConnectionError | TimeoutError) or _is_transport(c) for c in chain)


def _is_transport(error: BaseException) -> bool:
    """Whether an error is the HTTP client's for a connection; by name, since the library has changed its client."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
