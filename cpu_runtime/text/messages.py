"""Messages and tools in OpenAI's shape, checked, and made what a family's template expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cpu_runtime.text.tools.syntax import ToolSyntax
from cpu_runtime.text.tools.values import read_object
from quant.errors import UsageError

ROLES = ("system", "developer", "user", "assistant", "tool")
TOOL_SHAPE = 'expected {"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'


def checked_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """The tools, if they are ones; raises UsageError naming the one that is not."""
    for at, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise UsageError(f"tools[{at}] is not a tool", hint=TOOL_SHAPE)
        if not isinstance(function.get("parameters") or {}, dict):
            raise UsageError(f"tools[{at}] ({function['name']}): 'parameters' is not a JSON schema", hint=TOOL_SHAPE)
    return list(tools)


def checked(messages: Sequence[Any], syntax: ToolSyntax | None) -> list[dict[str, Any]]:
    """The messages with plain text as content and calls as the template wants them.

    Raises UsageError naming the message that can't be.
    """
    return [_message(message, f"messages[{at}]", syntax) for at, message in enumerate(messages)]


def _message(message: Any, where: str, syntax: ToolSyntax | None) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise UsageError(f"{where} needs a 'role', one of {', '.join(ROLES)}")
    result = {**message, "content": _text(message.get("content", ""), where, message["role"])}
    reasoning = message.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise UsageError(f"{where}: 'reasoning_content' must be text, found {type(reasoning).__name__}")
    if message["role"] == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise UsageError(f"{where}: a tool's result needs the 'tool_call_id' of its call")
    # Templates look whether the key is there at all.
    calls = result.pop("tool_calls", None)
    if calls:
        if message["role"] != "assistant" or not isinstance(calls, list):
            raise UsageError(f"{where}: 'tool_calls' is a list that an assistant's message may have")
        if syntax is None:
            raise UsageError(f"{where}: this model does not call tools")
        result["tool_calls"] = [_call(call, f"{where}, tool_calls[{n}]", syntax) for n, call in enumerate(calls)]
        result["content"] = result["content"] or syntax.without_text
    return result


def _text(content: Any, where: str, role: str) -> str:
    if content is None and role == "assistant":
        return ""
    if isinstance(content, list):
        parts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError(f"{where}: content may hold text parts only")
        content = "".join(map(str, parts))
    if not isinstance(content, str):
        raise UsageError(f"{where}: content must be text, found {type(content).__name__}")
    return content


def _call(call: Any, where: str, syntax: ToolSyntax) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UsageError(f"{where} needs a 'function' with a 'name'")
    given = function.get("arguments", "{}")
    text = json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given
    arguments = read_object(text) if isinstance(text, str) else None
    if arguments is None:
        raise UsageError(f"{where} ({function['name']}): 'arguments' is not the text of a JSON object")
    wanted = arguments if syntax.arguments == "object" else text
    return {**call, "type": "function", "function": {**function, "arguments": wanted}}
