"""How a checkpoint stores its tensors, from config.json alone, against the checkpoints themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cpu_runtime import models
from quant.checkpoint import Checkpoint
from quant.config_source import ConfigSource
from quant.errors import CheckpointError, UnsupportedError
from tests.conftest import DEMO, FIXTURES
from tests.published import DEEPSEEK_R1, KIMI_K25, MINIMAX_M25

FOLDERS = [DEMO, *sorted(path for path in FIXTURES.iterdir() if (path / "config.json").exists())]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_experts_are_as_the_config_says(folder: Path) -> None:
    with Checkpoint.open(folder) as checkpoint:
        plan = models.plan_for(checkpoint.config, checkpoint.names)
        guessed = ConfigSource(checkpoint.config, plan)
        for layer in plan.experts:
            for part in layer.parts:
                assert guessed.dtype(part.tensor(0)) == checkpoint.dtype(part.tensor(0))
        for dense in plan.dense:
            assert (guessed.dtype(dense.source) == "INT4") == (checkpoint.dtype(dense.source) == "INT4")


def source(config: dict[str, Any]) -> ConfigSource:
    return ConfigSource(config, models.plan_for(config, ()))


def test_fp8_leaves_what_is_published_in_bf16() -> None:
    found = source(DEEPSEEK_R1)
    assert found.dtype("model.layers.3.mlp.experts.0.up_proj.weight") == "F8_E4M3"
    assert found.dtype("model.layers.3.self_attn.o_proj.weight") == "F8_E4M3"
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.layers.3.mlp.gate.weight", "model.norm.weight"):
        assert found.dtype(name) == "BF16"
    assert source({**MINIMAX_M25, "torch_dtype": "float32"}).dtype("lm_head.weight") == "F32"


@pytest.mark.parametrize("method", ["awq", "gptq", None, 3])
def test_other_methods_are_refused(method: Any) -> None:
    with pytest.raises(UnsupportedError, match="quant_method"):
        source({**DEEPSEEK_R1, "quantization_config": {"quant_method": method}})


def test_other_packings_are_refused() -> None:
    packed = {**KIMI_K25["quantization_config"], "format": "marlin-24"}
    with pytest.raises(UnsupportedError, match="format"):
        source({**KIMI_K25, "quantization_config": packed})


@pytest.mark.parametrize("dtype", ["int8", ["bfloat16"], 16])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    with pytest.raises(CheckpointError, match="dtype"):
        source({**DEEPSEEK_R1, "torch_dtype": dtype})
