"""Models written without a checkpoint: every family at scaled shapes opens, answers, and takes the memory it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_runtime import Engine
from tests.published import PUBLISHED, scaled
from tests.synth import write_model

# Published head sizes and ranks, few and narrow layers.
SMALL = {
    "Qwen3.5-397B-A17B": {"num_hidden_layers": 4, "num_experts": 16, "hidden_size": 256, "vocab_size": 512},
    "GLM-5": {"n_routed_experts": 16, "num_attention_heads": 4, "index_n_heads": 4},
    "Kimi-K2.5": {"n_routed_experts": 16, "num_attention_heads": 4},
    "MiniMax-M2.5": {"num_local_experts": 16},
    "DeepSeek-R1": {"n_routed_experts": 16, "num_attention_heads": 4},
}
NARROW = {
    "num_hidden_layers": 4,
    "first_k_dense_replace": 1,
    "hidden_size": 256,
    "intermediate_size": 128,
    "moe_intermediate_size": 128,
    "vocab_size": 512,
}
# Bytes a token, in float16: keys and values, or latent + rotated key (+ index key), times the layers that keep them.
TOKEN_BYTES = {
    "Qwen3.5-397B-A17B": 1 * 2 * 2 * 2 * 256,
    "GLM-5": 4 * 2 * (512 + 64 + 128),
    "Kimi-K2.5": 4 * 2 * (512 + 64),
    "MiniMax-M2.5": 4 * 2 * 2 * 8 * 128,
    "DeepSeek-R1": 4 * 2 * (512 + 64),
}


def small(name: str) -> dict[str, Any]:
    return scaled(PUBLISHED[name], **(NARROW | SMALL[name]))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_family_runs(tmp_path: Path, name: str, sparse: bool) -> None:
    with Engine.open(write_model(small(name), tmp_path / "model", sparse=sparse), context=300) as engine:
        session = engine.session()
        hidden = session.advance(np.random.default_rng(0).integers(0, 512, 40).tolist())
        assert np.isfinite(engine.decoder.logits(hidden[-1:])).all()
        assert np.isfinite(engine.decoder.logits(session.advance([3]))).all()
        grown = [cache.token_bytes for cache in session._caches if hasattr(cache, "token_bytes")]
        assert sum(grown) == TOKEN_BYTES[name]
