"""Qwen's syntax since Qwen3-Coder: one block a call, in something like XML."""

from __future__ import annotations

import re

from cpu_runtime.text.tools.syntax import Call, Schemas, ToolSyntax, begins_with, repeated
from cpu_runtime.text.tools.values import typed

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
# A value ends at a closing tag with another parameter, or nothing, after it: values may well contain tags.
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|\Z))", re.DOTALL)


def _parse(text: str, schemas: Schemas) -> list[Call] | None:
    function = _FUNCTION.fullmatch(text)
    parameters = repeated(_PARAMETER, function[2]) if function else None
    if function is None or parameters is None:
        return None
    name = function[1].strip()
    return [Call(name, typed(name, {p[1].strip(): p[2] for p in parameters}, schemas))]


qwen_xml = ToolSyntax(
    open="<tool_call>",
    close="</tool_call>",
    parse=_parse,
    plausible=begins_with("<function="),
    markers=("<tool_call>", "</tool_call>"),
    arguments="object",
)
