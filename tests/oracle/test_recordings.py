"""Every family against logits recorded from transformers (tests/fixtures/record_*.py)."""

from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.models import families
from tests.conftest import Quantized
from tests.recordings import CHECKPOINTS, TOLERANCE, error, greedy, logits, opened


def test_every_family_is_recorded() -> None:
    covered = {
        family for family in families() if any(name.startswith(family.removesuffix("_moe")) for name in CHECKPOINTS)
    }
    assert covered == set(families())


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_match_transformers(quantized: Quantized, name: str) -> None:
    engine, recorded = opened(quantized, name)
    session = engine.session()
    one_by_one = np.concatenate([engine.decoder.logits(session.advance([token])) for token in recorded["ids"].tolist()])
    assert error(logits(engine, recorded["ids"]), recorded["logits"]) < TOLERANCE
    assert error(one_by_one, recorded["logits"]) < TOLERANCE


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_greedy_continuation_is_that_of_transformers(quantized: Quantized, name: str) -> None:
    engine, recorded = opened(quantized, name)
    assert greedy(engine, recorded["ids"], recorded["greedy"].size) == recorded["greedy"].tolist()


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if name.startswith(("qwen", "minimax"))])
def test_a_prompt_at_once_is_the_same_bits_as_token_by_token(quantized: Quantized, name: str) -> None:
    """Latent attention has two forms, which differ in rounding; all else has one."""
    engine, recorded = opened(quantized, name)
    session = engine.session()
    one_by_one = np.concatenate([engine.decoder.logits(session.advance([token])) for token in recorded["ids"].tolist()])
    assert np.array_equal(logits(engine, recorded["ids"]), one_by_one)
