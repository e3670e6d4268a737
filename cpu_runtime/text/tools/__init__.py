"""How models write tool calls: one file a syntax, each with the object that a family names in its `ChatSyntax`."""

from __future__ import annotations

from cpu_runtime.text.tools.deepseek import deepseek_fences
from cpu_runtime.text.tools.glm import glm_xml
from cpu_runtime.text.tools.kimi import kimi_sections
from cpu_runtime.text.tools.minimax import minimax_xml
from cpu_runtime.text.tools.qwen import qwen_xml
from cpu_runtime.text.tools.syntax import Call, ToolSyntax

__all__ = ["Call", "ToolSyntax", "deepseek_fences", "glm_xml", "kimi_sections", "minimax_xml", "qwen_xml"]
