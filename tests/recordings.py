"""What the reference implementation says of the checkpoints in tests/fixtures, and how far a model is from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.layers.decoder import Decoder
from tests.conftest import FIXTURES, Quantized

TOLERANCE = 1e-3  # of the spread of the recorded logits
CHECKPOINTS = sorted(path.parent.name for path in FIXTURES.glob("*/recorded.npz"))
Mistake = Callable[[Decoder, pytest.MonkeyPatch], None]


def opened(quantized: Quantized, name: str, recipe: str = "bf16") -> tuple[Engine, Any]:
    """A fixture's model, and the recorded ids, logits and greedy continuation."""
    return Engine.open(quantized(FIXTURES / name, recipe)), np.load(FIXTURES / name / "recorded.npz")


def error(found: np.ndarray, recorded: np.ndarray) -> float:
    """The largest difference, as a share of the recorded logits' spread."""
    return float(np.abs(found - recorded).max() / np.ptp(recorded))


def logits(engine: Engine, ids: np.ndarray) -> np.ndarray:
    """Logits of the whole sequence at once."""
    return np.concatenate(list(engine.logits(ids.tolist())))


def greedy(engine: Engine, ids: np.ndarray, count: int) -> list[int]:
    """The `count` most probable ids that follow, each put behind those before it."""
    session, answer = engine.session(), []
    hidden = session.advance(ids.tolist())
    while len(answer) < count:
        answer.append(int(engine.decoder.logits(hidden[-1:])[0].argmax()))
        hidden = session.advance(answer[-1:])
    return answer


# --- models with a mistake in them ---


def mistake_error(quantized: Quantized, name: str, mistake: Mistake, patch: pytest.MonkeyPatch) -> float:
    """How far the logits are from the recorded ones once a mistake is made."""
    engine, recorded = opened(quantized, name)
    mistake(engine.decoder, patch)
    return error(logits(engine, recorded["ids"]), recorded["logits"])


def mixers(decoder: Decoder, kind: type) -> list[Any]:
    """The mixers of one kind."""
    return [block.mixer for block in decoder.blocks if isinstance(block.mixer, kind)]


def change(layer: Any, **fields: Any) -> None:
    """Set fields of an immutable layer."""
    for name, value in fields.items():
        object.__setattr__(layer, name, value)
