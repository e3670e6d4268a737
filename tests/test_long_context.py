"""At 32,768 tokens each kind of attention takes the memory that its formula says, and decoding its answers to pages."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.caches.pages import Pages
from cpu_runtime.kernels.pages import PAGE
from quant.errors import ResourceError
from tests.long_context import own_memory, with_past
from tests.published import PUBLISHED
from tests.synth import write_model
from tests.test_synth import TOKEN_BYTES, small

WINDOW, DECODED = 32_768, 8
# Numbers that a page answers to a token: each head's value, largest score and sum. GLM-5 attends to few.
PARTIAL = {
    "Qwen3.5-397B-A17B": 32 * (256 + 2),
    "GLM-5": 0,
    "Kimi-K2.5": 4 * (512 + 2),
    "MiniMax-M2.5": 48 * (128 + 2),
    "DeepSeek-R1": 4 * (512 + 2),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounting")
@pytest.mark.parametrize("name", PUBLISHED)
def test_memory_of_a_long_context(tmp_path: Path, name: str) -> None:
    with Engine.open(write_model(small(name), tmp_path / "model"), context=WINDOW) as engine:
        fixed = sum(cache.bytes for cache in engine.session()._caches)  # recurrent states; all else is empty still
        formula = TOKEN_BYTES[name] * WINDOW + 2 * fixed  # they are held once more, where the session can go back to
        for measured in (False, True):  # the first time compiles
            gc.collect()
            before = own_memory()
            session = with_past(engine.session(), WINDOW - 64 - DECODED)
            hidden = session.advance([1] * 64)
            full = own_memory() - before
            for _ in range(DECODED):
                hidden = session.advance([2])
            grown = own_memory() - before
            assert np.isfinite(hidden).all()
            if measured:
                assert full == pytest.approx(formula, rel=0.05)
                assert grown == pytest.approx(formula + 4 * PARTIAL[name] * WINDOW // PAGE, rel=0.05)
            del session


def test_a_window_that_can_not_be_reserved_is_an_error() -> None:
    with pytest.raises(ResourceError, match="window of 1073741824 tokens"):
        Pages(1 << 20, 1 << 20, 1 << 30, np.dtype(np.float16))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounting")
def test_a_window_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    with Engine.open(write_model(small("MiniMax-M2.5"), tmp_path / "model"), context=WINDOW) as engine:
        engine.warm_up()
        gc.collect()
        before = own_memory()
        session = engine.session()
        session.advance([1] * 8)
        assert own_memory() - before < TOKEN_BYTES["MiniMax-M2.5"] * WINDOW / 10
        assert session.bytes == 8 * TOKEN_BYTES["MiniMax-M2.5"]
