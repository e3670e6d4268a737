"""The chat syntax of every family, and what each writes for the same two tool calls."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from cpu_runtime.text.syntax import ChatSyntax

FAMILIES = ("qwen3_5_moe", "glm_moe_dsa", "kimi_k25", "minimax_m2", "deepseek_v3")
SYNTAXES: dict[str, ChatSyntax] = {name: import_module(f"cpu_runtime.models.{name}").chat for name in FAMILIES}

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": "array"}},
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Wetter für é 中", "parameters": PARAMETERS},
}

CALLS = [("weather", {"city": "Zürich 中", "days": 3}), ("now", {})]
# The calls above as each family writes them.
WRITTEN = {
    "qwen3_5_moe": (
        "<tool_call>\n<function=weather>\n<parameter=city>\nZürich 中\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"
    ),
    "glm_moe_dsa": (
        "<tool_call>weather<arg_key>city</arg_key><arg_value>Zürich 中</arg_value><arg_key>days</arg_key>"
        "<arg_value>3</arg_value></tool_call><tool_call>now</tool_call>"
    ),
    "kimi_k25": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Zürich 中", "days": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "minimax_m2": (
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Zürich 中</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>'
    ),
    "deepseek_v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Zürich 中", "days": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n'
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
}
