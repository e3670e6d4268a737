"""What people type for a model: a name in the store, a folder, `org/repo[@revision]`, or a Hub URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from quant.errors import UsageError

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?P<repo>{_WORD}/{_WORD})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
_URL = re.compile(r"https?://[^/]+/(?P<repo>[^/?#]+/[^/?#]+)(?:/tree/(?P<revision>[^?#]+?))?/?(?:[?#].*)?")


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub; no revision means the default branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def parse_hub_name(text: str) -> HubName:
    """`org/repo[@revision]`, `hf://org/repo` or a Hub URL; raises UsageError where it is none of them."""
    url = _URL.fullmatch(text)
    if url:
        text = url["repo"] + (f"@{url['revision']}" if url["revision"] else "")
    found = _REPO.fullmatch(text.removeprefix("hf://"))
    if not found or ".." in text:
        raise UsageError(f"{text!r} is not a model on the Hub", hint="write it as org/name, e.g. Qwen/Qwen3.5-35B-A3B")
    return HubName(found["repo"], found["revision"])


def is_hub_name(text: str) -> bool:
    """Whether text can be a repository on the Hub."""
    try:
        parse_hub_name(text)
    except UsageError:
        return False
    return True


def is_path(text: str) -> bool:
    """Whether text is written as a path: with a slash, or a dot first."""
    return "/" in text or "\\" in text or text.startswith(".")


def check_store_name(text: str) -> str:
    """The text, if it can name a model in the store."""
    if not re.fullmatch(_WORD, text) or text.endswith(".partial"):
        raise UsageError(f"{text!r} can't name a model", hint="use letters, digits, '.', '_' and '-'")
    return text


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that resemble one that was not found."""
    by_lower = {k.lower(): k for k in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, 3, 0.4)]
