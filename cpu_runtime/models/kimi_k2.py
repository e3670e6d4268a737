"""Kimi K2: DeepSeek-V3's model in other numbers, with a tokenizer and chat of its own.

Checkpoints: moonshotai/Kimi-K2-Instruct, -Instruct-0905 (fp8), Kimi-K2-Thinking (int4 experts). Reference:
transformers `deepseek_v3`.
"""

from __future__ import annotations

from cpu_runtime.models.deepseek_v3 import Config, build, cache_size, plan, read
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools import kimi_sections

__all__ = ["Config", "build", "cache_size", "chat", "plan", "read"]

chat = ChatSyntax(tools=kimi_sections, switch="thinking", stops=("<|im_end|>",))
