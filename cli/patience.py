"""How long a broken connection or a busy server is put up with, and what is said meanwhile."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from cli.hub_errors import causes, explained, is_passing
from cli.names import HubName


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    stalled: float = 60  # without a byte until it is said, and again for every further so many
    unreached: float = 20  # until giving up on a Hub that never answered
    cut: float = 900  # until giving up once it has: a router may restart in the night
    longest_wait: float = 300  # of what a server may ask for, and of our own between two attempts
    first_wait: float = 1


PATIENCE = Patience()


class Attempts:
    """Decides after each failure whether there is another attempt, and waits for it."""

    def __init__(self, name: HubName, say: Callable[[str], None], *, reached: bool = False) -> None:
        self._name, self._say, self._reached = name, say, reached
        self._failures = 0
        self._since = self._said = time.monotonic()

    def progressed(self) -> None:
        """Bytes came: all is forgiven."""
        self._reached = True
        self._failures = 0
        self._since = self._said = time.monotonic()

    def failed(self, error: BaseException) -> None:
        """Wait until it is worth another attempt; raises the error explained where it is not, or no longer."""
        if not is_passing(error):
            raise explained(error, self._name) from error
        patience = PATIENCE
        asked = retry_after(error)
        wait = min(patience.longest_wait, patience.first_wait * 2**self._failures if asked is None else asked)
        silent = time.monotonic() - self._since
        limit = patience.cut if self._reached or asked is not None else patience.unreached
        if silent + wait > limit:
            raise explained(error, self._name) from error
        self._failures = min(self._failures + 1, 5)
        if asked is not None and wait > 5:
            self._say(f"the Hub asks to wait; trying again in {wait:.0f} s")
        elif time.monotonic() - self._said >= patience.stalled:
            self._say(f"nothing has come for {silent:.0f} s ({_brief(error)}); still trying")
            self._said = time.monotonic()
        time.sleep(wait)


def retry_after(error: BaseException) -> float | None:
    """Seconds that a server asked to wait, from a number or a date; None where it did not, or what it said is neither.

    A date in the past is no wait.
    """
    for cause in causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", None)
        text = headers.get("Retry-After") if headers is not None else None
        if isinstance(text, str):
            return _seconds(text.strip())
    return None


def _seconds(text: str) -> float | None:
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
