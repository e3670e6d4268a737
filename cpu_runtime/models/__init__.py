"""One file per model family, named after `config.json`'s `model_type`; adding a family is adding a file.

A family file offers
    read(config)         -> Config     what the config says; anything it cannot run fails here, by key
    plan(config, names)  -> Plan       where each checkpoint tensor goes, as data for `quant`
    cache_size(config)   -> CacheSize  what a session remembers, in numbers a token and fixed bytes
    build(config, model) -> Decoder    the layers, stacked over a quantized model's weights
    chat                 : ChatSyntax  what it writes besides plain text, and what its template has to be told
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from quant.errors import CheckpointError, UnsupportedError
from quant.plan import Plan

_NOT_FAMILIES = {"config"}


def families() -> list[str]:
    """The `model_type`s that have a file here, sorted."""
    return sorted(m.name for m in iter_modules(__path__) if m.name not in _NOT_FAMILIES)


def find(config: dict[str, Any]) -> ModuleType:
    """The family module for a checkpoint's config.json.

    Raises CheckpointError where `model_type` is missing, UnsupportedError where no file here is named after it.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError("config.json has no 'model_type'", hint="is this a complete model folder?")
    # The name comes from an untrusted file: it must be an identifier of ours before it reaches the importer.
    if not re.fullmatch(r"[a-z0-9_]+", model_type) or model_type not in families():
        raise UnsupportedError(
            f"model_type {model_type!r} is not supported",
            hint=f"supported: {', '.join(families())}",
        )
    return import_module(f"{__name__}.{model_type}")


def plan_for(config: dict[str, Any], names: Collection[str]) -> Plan:
    """Where each tensor of a checkpoint goes, as its family says; `names` are the tensors the checkpoint holds."""
    family = find(config)
    plan: Plan = family.plan(family.read(config), names)
    return plan
