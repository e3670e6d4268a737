"""DeepSeek's syntax: a section of calls between control tokens, arguments in a JSON fence (R1, V3) or bare (V3.1)."""

from __future__ import annotations

import re

from cpu_runtime.text.tools.syntax import Call, Schemas, ToolSyntax, begins_with, repeated
from cpu_runtime.text.tools.values import read_object

_BEGIN, _SEP, _END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_CALL = re.compile(rf"\s*{_BEGIN}(.*?){_SEP}(.*?){_END}", re.DOTALL)
_FENCE, _FENCE_END = "```json\n", "```"


def _parse(text: str, schemas: Schemas) -> list[Call] | None:
    calls = []
    for found in repeated(_CALL, text) or ():
        name, json = found[1].strip(), found[2]
        if name == "function" and _FENCE in json:
            name, _, json = json.partition(_FENCE)
            json = json.rstrip().removesuffix(_FENCE_END)
        arguments = read_object(json)
        if not name.strip() or arguments is None:
            return None
        calls.append(Call(name.strip(), arguments))
    return calls or None


deepseek_fences = ToolSyntax(
    open="<｜tool▁calls▁begin｜>",
    close="<｜tool▁calls▁end｜>",
    parse=_parse,
    plausible=begins_with(_BEGIN),
    markers=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _BEGIN, _SEP, _END),
    arguments="text",
    without_text=None,
    ends_thinking=True,
)
