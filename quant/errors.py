"""The errors a person can meet, as one tree; each knows the exit code of a command that ends with it.

    MoeError                 1   something failed
    ├── UsageError           2   the request itself is wrong
    ├── ModelNotFound        3   no such model here
    ├── AccessError          4   the network, or a permission on the Hub
    ├── ResourceError        5   not enough disk or memory
    └── CheckpointError      6   a file is corrupt
        └── UnsupportedError 6   a file is sound, but not something we can run

A message says what is wrong, where, and what was expected against what was found; `hint` says what to do next.
Programming errors stay `assert`; user errors never are.
"""

from __future__ import annotations

EXIT_INTERRUPTED = 130  # the shell's convention for SIGINT: 128 + 2


class MoeError(Exception):
    """A failure that can be explained to the user in one line, with the next step as `hint`."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(MoeError):
    """The request cannot be carried out as it was made."""

    exit_code = 2


class ModelNotFound(MoeError):
    """No model of that name is in the store, on disk or on the Hub."""

    exit_code = 3


class AccessError(MoeError):
    """The Hub could not be reached, or refused."""

    exit_code = 4


class ResourceError(MoeError):
    """The machine has too little disk space or memory for what was asked."""

    exit_code = 5


class CheckpointError(MoeError):
    """A model's files are damaged, incomplete or contradict each other."""

    exit_code = 6


class UnsupportedError(CheckpointError):
    """A model's files are sound, but of a kind that this version cannot run."""
