"""A text in a file: what a model is measured on."""

from __future__ import annotations

from pathlib import Path

from quant.errors import UsageError


def read_text(path: Path) -> str:
    """The whole file; raises UsageError where it is missing, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or error}", hint="give a file of text") from error
    if not text.strip():
        raise UsageError(f"{path} holds no text")
    return text
