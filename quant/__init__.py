"""What the bytes mean: checkpoints, block formats, quantization, and the quantized model on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.checkpoint import Checkpoint
    from quant.container import QuantizedModel, open_model
    from quant.plan import Plan
    from quant.recipe import load_recipe

__all__ = ["Checkpoint", "Plan", "QuantizedModel", "load_recipe", "open_model"]

_HOME = {
    "Checkpoint": "checkpoint",
    "Plan": "plan",
    "QuantizedModel": "container",
    "open_model": "container",
    "load_recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import quant.errors` needs neither NumPy nor Numba."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"quant.{_HOME[name]}"), name)
