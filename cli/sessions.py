"""Conversations on disk: plain JSON in the message shape that everyone uses, readable by their owner alone."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from cli import small_file
from cli.store import home
from quant.errors import ModelNotFound, ResourceError, UsageError


def folder() -> Path:
    """Where conversations are kept."""
    return home() / "sessions"


def new_name() -> str:
    """A name for a conversation that was not given one: the time it began."""
    return datetime.now().strftime("%Y-%m-%d-%H%M%S")


def save(name: str, model: str, messages: list[dict[str, Any]]) -> Path:
    """Write a conversation whole or not at all; raises UsageError for an impossible name."""
    path = _path(name)
    text = json.dumps({"model": model, "messages": messages}, indent=1, ensure_ascii=False)
    try:
        small_file.write(path, text + "\n", mode=0o600)
    except OSError as error:
        raise ResourceError(f"can't save {path}: {error.strerror or error}") from error
    return path


def load(name: str) -> list[dict[str, Any]]:
    """The messages of a saved conversation; raises ModelNotFound, UsageError."""
    path = _path(name)
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(names()[:5]) or "none is saved yet"
        raise ModelNotFound(f"no conversation {name!r}", hint=f"saved: {known}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error
    messages = saved.get("messages") if isinstance(saved, dict) else None
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise UsageError(f"{path} holds no conversation")
    return messages


def names() -> list[str]:
    """Saved conversations, the latest first."""
    if not folder().is_dir():
        return []
    return [path.stem for path in sorted(folder().glob("*.json"), key=lambda p: -p.stat().st_mtime)]


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def _path(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise UsageError(f"{name!r} can't name a conversation", hint="use letters, digits, '.', '_' and '-'")
    return folder() / f"{name}.json"
