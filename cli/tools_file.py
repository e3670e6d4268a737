"""Tools in a file, which a model may call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quant.errors import UsageError


def read_tools(path: Path) -> list[dict[str, Any]]:
    """The tools in a JSON list; raises UsageError naming the file and what is wrong."""
    from cpu_runtime.text.messages import TOOL_SHAPE, checked_tools

    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}", hint=f"a JSON list of tools: {TOOL_SHAPE}") from error
    if not isinstance(tools, list) or not tools:
        raise UsageError(f"{path}: expected a JSON list of tools", hint=TOOL_SHAPE)
    try:
        return checked_tools(tools)
    except UsageError as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from error
