"""Kimi's syntax since K2: a section of calls between control tokens, each with an id that holds its name."""

from __future__ import annotations

import re

from cpu_runtime.text.tools.syntax import Call, Schemas, ToolSyntax, begins_with, repeated
from cpu_runtime.text.tools.values import read_object

_BEGIN, _ARGUMENT, _END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_CALL = re.compile(rf"\s*{re.escape(_BEGIN)}(.*?){re.escape(_ARGUMENT)}(.*?){re.escape(_END)}", re.DOTALL)
_ID = re.compile(r"(?:functions\.)?([^\s<>]+?)(?::\d+)?")


def _parse(text: str, schemas: Schemas) -> list[Call] | None:
    calls = []
    for found in repeated(_CALL, text) or ():
        id_, arguments = found[1].strip(), read_object(found[2])
        name = _ID.fullmatch(id_)
        if name is None or arguments is None:
            return None
        calls.append(Call(name[1], arguments, id_))
    return calls or None


kimi_sections = ToolSyntax(
    open="<|tool_calls_section_begin|>",
    close="<|tool_calls_section_end|>",
    parse=_parse,
    plausible=begins_with(_BEGIN),
    markers=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", _BEGIN, _ARGUMENT, _END),
    arguments="text",
    ends_thinking=True,
)
