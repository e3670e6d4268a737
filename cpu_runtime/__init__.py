"""How a Mixture-of-Experts model is computed on a CPU: kernels, layers, model families, sessions.

    with Engine.open(Path("qwen3.5-35b-a3b-int4")) as engine:
        prompt = engine.chat.prompt([{"role": "user", "content": "Hello"}])
        for event in engine.session().generate(prompt, SamplingParams()):
            ...

The letters used in shapes throughout the package:

    T tokens      D hidden size         V vocabulary      L layers      C context (capacity of a cache)
    H query heads K key/value heads     d head size       R latent rank
    E experts     A active experts      F expert width    G quantization group
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpu_runtime.engine import Engine
    from cpu_runtime.events import Done, Event, Piece, Prefill, ToolCall
    from cpu_runtime.models import plan_for
    from cpu_runtime.sampling import SamplingParams
    from cpu_runtime.session import Session

__all__ = ["Done", "Engine", "Event", "Piece", "Prefill", "SamplingParams", "Session", "ToolCall", "plan_for"]

_HOME = {
    "Done": "events",
    "Engine": "engine",
    "Event": "events",
    "Piece": "events",
    "Prefill": "events",
    "SamplingParams": "sampling",
    "Session": "session",
    "ToolCall": "events",
    "plan_for": "models",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import cpu_runtime` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cpu_runtime.{_HOME[name]}"), name)
