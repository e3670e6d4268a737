"""Token ids in a file, which take the place of a prompt."""

from __future__ import annotations

import json
from pathlib import Path

from quant.errors import UsageError


def read_tokens(path: Path) -> list[int]:
    """The ids in a JSON list; raises UsageError naming what is wrong."""
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}", hint="expected a JSON list of token ids, such as [1, 2, 3]") from error
    if not isinstance(ids, list) or not ids or not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise UsageError(f"{path}: expected a JSON list of token ids, such as [1, 2, 3]")
    return ids
