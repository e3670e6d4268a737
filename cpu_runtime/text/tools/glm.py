"""GLM's syntax since GLM-4.5: one block a call, its name, then keys and values."""

from __future__ import annotations

import re

from cpu_runtime.text.tools.syntax import Call, Schemas, ToolSyntax, repeated
from cpu_runtime.text.tools.values import typed

_WORD = r"[\w.:/-]{1,128}"  # bounded, so that a long word is soon no name
_NAME = re.compile(rf"\s*({_WORD})\s*(<.*)?", re.DOTALL)
_BEGINNING = re.compile(rf"\s*({_WORD}\s*(<.*)?)?", re.DOTALL)
_ARGUMENT = re.compile(r"\s*<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>(?=\s*(?:<arg_key>|\Z))", re.DOTALL)


def _parse(text: str, schemas: Schemas) -> list[Call] | None:
    found = _NAME.fullmatch(text)
    arguments = repeated(_ARGUMENT, found[2] or "") if found else None
    if found is None or arguments is None:
        return None
    return [Call(found[1], typed(found[1], {a[1].strip(): a[2] for a in arguments}, schemas))]


glm_xml = ToolSyntax(
    open="<tool_call>",
    close="</tool_call>",
    parse=_parse,
    plausible=lambda text: _BEGINNING.fullmatch(text) is not None,
    markers=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    arguments="object",
)
