"""What went wrong with the Hub, said so that a person knows what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from cli.names import HubName
from quant.errors import AccessError, CheckpointError, ModelNotFound, MoeError, ResourceError

_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


def explained(error: BaseException, name: HubName) -> MoeError:
    """The error to show; the library often wraps the true one."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    if isinstance(error, MoeError):
        return error
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return ResourceError(
                "no space left for the download", hint="free some space and run the same command again"
            )
        if isinstance(cause, hub.OfflineModeIsEnabled):
            return AccessError("HF_HUB_OFFLINE is set", hint="unset it to download")
        if isinstance(cause, hub.GatedRepoError):
            return AccessError(
                f"{name.repo} is gated",
                hint=f"accept its licence at {constants.ENDPOINT}/{name.repo}, then: hf auth login (or set HF_TOKEN)",
            )
        if isinstance(cause, hub.RevisionNotFoundError):
            return ModelNotFound(f"{name.repo} has no revision {name.revision!r}", hint="leave it out for the latest")
        if isinstance(cause, hub.RepositoryNotFoundError):
            return ModelNotFound(
                f"{name.repo} is not on the Hub, or is private",
                hint="check the spelling; for a private model: hf auth login (or set HF_TOKEN)",
            )
    for cause in causes:
        status = _status(cause)
        if status in (401, 403):
            return AccessError(f"the Hub refuses {name.repo} ({status})", hint="hf auth login, or set HF_TOKEN")
        if status is not None:
            return AccessError(f"the Hub answered {status} for {name.repo}", hint="run the same command again later")
    if is_passing(error):
        return AccessError(
            f"{constants.ENDPOINT} can't be reached: {causes[-1]}",
            hint="check the connection and run the same command again: finished files are kept",
        )
    return CheckpointError(f"the Hub's answer for {name.repo} makes no sense: {type(error).__name__}: {error}")


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: the network, or a server that is busy."""
    causes = list(_causes(error))
    if any(isinstance(c, OSError) and c.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES) for c in causes):
        return False
    statuses = [status for status in map(_status, causes) if status is not None]
    if statuses:
        return statuses[0] in _PASSING_STATUS
    return any(isinstance(c, ConnectionError | TimeoutError) or _is_transport(c) for c in causes)


def _is_transport(error: BaseException) -> bool:
    """Whether an error is the HTTP client's for a connection; by name, since the library has changed its client."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
