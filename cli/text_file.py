"""A text in a file: what a model is measured on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from quant.checksums import sha256
from quant.errors import UsageError

_PIECE = 1 << 16  # characters
_LINE = re.compile(r"\n(?=\S)")  # after these tokenizers cut too, so that pieces have the tokens of the whole


def read_text(path: Path) -> str:
    """The whole file; raises UsageError where it is missing, empty or not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not text.strip():
        raise UsageError(f"{path} holds no text")
    return text


def pieces(path: Path) -> Iterator[str]:
    """The same a piece at a time, to the end of a line where there is one: for texts that may be longer than is needed.

    Raises UsageError as `read_text`, but where a file is empty.
    """
    done, rest = 0, ""
    try:
        with path.open(encoding="utf-8") as file:
            while more := file.read(_PIECE):
                rest += more
                cut = max((found.end() for found in _LINE.finditer(rest)), default=len(rest))
                yield rest[:cut]
                done, rest = done + cut, rest[cut:]
        if rest:
            yield rest
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 after {done + len(rest):,} characters") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def checksum(path: Path) -> str:
    """SHA-256 of the file; raises UsageError where it is missing."""
    try:
        return sha256(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path}: {getattr(error, 'strerror', None) or error}", hint="give a file of text")
