"""Kimi K2.5: Kimi K2's language model inside a vision-language checkpoint, its experts in int4.

Checkpoints: moonshotai/Kimi-K2.5 (the text part; vision tower and projector are skipped). Reference: transformers
`deepseek_v3` on `text_config`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cpu_runtime.models.config import Keys
from cpu_runtime.models.deepseek_v3 import Config, build, cache_size, mtp, plan_under, read_keys
from cpu_runtime.models.kimi_k2 import chat
from quant.plan import Plan

__all__ = ["Config", "build", "cache_size", "chat", "plan", "read"]

PREFIX = "language_model."
SKIP = (r"vision_tower\..*", r"mm_projector\..*")


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint, checked; raises UnsupportedError or CheckpointError naming the key."""
    text = Keys(config).inside("text_config")
    text.expect("model_type", "kimi_k2", "deepseek_v3")
    return read_keys(text)


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes."""
    return plan_under(c, PREFIX, skip=(*SKIP, *mtp(c, PREFIX)))
