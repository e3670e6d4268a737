"""MiniMax's syntax since M2: a block of calls in something like XML."""

from __future__ import annotations

import re

from cpu_runtime.text.tools.syntax import Call, Schemas, ToolSyntax, begins_with, repeated
from cpu_runtime.text.tools.values import typed

_INVOKE = re.compile(r'\s*<invoke name="([^"\n]+)">(.*?)</invoke>(?=\s*(?:<invoke name="|\Z))', re.DOTALL)
_PARAMETER = re.compile(r'\s*<parameter name="([^"\n]+)">(.*?)</parameter>(?=\s*(?:<parameter name="|\Z))', re.DOTALL)


def _parse(text: str, schemas: Schemas) -> list[Call] | None:
    calls = []
    for invoke in repeated(_INVOKE, text) or ():
        parameters = repeated(_PARAMETER, invoke[2])
        if parameters is None:
            return None
        calls.append(Call(invoke[1], typed(invoke[1], {p[1]: p[2] for p in parameters}, schemas)))
    return calls or None


minimax_xml = ToolSyntax(
    open="<minimax:tool_call>",
    close="</minimax:tool_call>",
    parse=_parse,
    plausible=begins_with('<invoke name="'),
    markers=("<minimax:tool_call>", "</minimax:tool_call>"),
    arguments="object",
)
