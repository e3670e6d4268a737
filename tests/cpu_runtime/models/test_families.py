"""What each family makes of the published config: sizes, rotations, and everything that it must refuse."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest

from cpu_runtime import models
from quant.errors import CheckpointError, UnsupportedError
from tests.published import DEEPSEEK_R1, GLM_5, KIMI_K25, MINIMAX_M25, PUBLISHED, QWEN_397B, WEIGHTS, scaled


def read(config: dict[str, Any]) -> Any:
    return models.find(config).read(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_plan_has_a_place_for_every_weight(name: str) -> None:
    plan = models.plan_for(PUBLISHED[name], ())
    dense = sum(prod(d.shape) for d in plan.dense if not (d.heads and d.heads.transposed))
    assert dense + sum(e.n_experts * prod(p.shape) for e in plan.experts for p in e.parts) == WEIGHTS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_tensor_is_planned_twice(name: str) -> None:
    plan = models.plan_for(PUBLISHED[name], ())
    names = [d.name for d in plan.dense]
    assert len(names) == len(set(names))
    sources = [d.source for d in plan.dense if d.heads is None]
    assert len(sources) == len(set(sources))


@pytest.mark.parametrize(
    ("config", "softmax", "scale", "inverse"),
    [
        (
            DEEPSEEK_R1,
            1.8738542071,
            0.1352337789,
            [1, 5.62341325e-2, 8.33450895e-3, 7.90569415e-4, 3.33380358e-5, 3.33380358e-6],
        ),
        (
            KIMI_K25,
            2.0047397017,
            0.1446796258,
            [1, 2.84279591e-2, 2.67020339e-3, 1.80702339e-5, 6.55292708e-6, 4.38220646e-7],
        ),
        (GLM_5, 1.0, 0.0625, [1e6 ** (-i / 32) for i in (0, 10, 15, 20, 23, 31)]),
    ],
    ids=["R1", "Kimi", "GLM"],
)
def test_rotation_and_scale(config: dict[str, Any], softmax: float, scale: float, inverse: list[float]) -> None:
    c = read(config)
    assert c.rope.softmax == pytest.approx(softmax, rel=1e-9)
    assert c.rope.magnitude == 1
    assert c.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(c.rope.inv_freq[[0, 10, 15, 20, 23, 31]], inverse, rtol=1e-6)


def test_the_newer_spelling_of_the_rotation_means_the_same() -> None:
    old = read(DEEPSEEK_R1).rope
    scaling = dict(DEEPSEEK_R1["rope_scaling"])
    newer = {"rope_type": scaling.pop("type"), "rope_theta": DEEPSEEK_R1["rope_theta"], **scaling}
    new = read(scaled(DEEPSEEK_R1, rope_parameters=newer, rope_scaling=None, rope_theta=None)).rope
    assert np.array_equal(old.inv_freq, new.inv_freq)
    assert (old.magnitude, old.softmax) == (new.magnitude, new.softmax)
    share = scaled(MINIMAX_M25, rotary_dim=None, rope_theta=None)
    share["rope_parameters"] = {"rope_type": "default", "rope_theta": 5_000_000, "partial_rotary_factor": 0.5}
    assert np.array_equal(read(share).rope.inv_freq, read(MINIMAX_M25).rope.inv_freq)


def test_kimi_k2_is_read_at_the_top_level() -> None:
    k2 = KIMI_K25["text_config"]
    assert vars(read(k2))["experts"] == 384
    assert models.plan_for(k2, ()).dense[0].source == "model.embed_tokens.weight"
    assert models.plan_for(KIMI_K25, ()).dense[0].source == "language_model.model.embed_tokens.weight"


UNSUPPORTED = [
    (DEEPSEEK_R1, {"scoring_func": "softmax"}),
    (DEEPSEEK_R1, {"topk_method": "greedy"}),
    (DEEPSEEK_R1, {"norm_topk_prob": False}),
    (DEEPSEEK_R1, {"moe_layer_freq": 2}),
    (DEEPSEEK_R1, {"hidden_act": "gelu"}),
    (DEEPSEEK_R1, {"attention_bias": True}),
    (DEEPSEEK_R1, {"tie_word_embeddings": True}),
    (DEEPSEEK_R1, {"rope_interleave": False}),
    (DEEPSEEK_R1, {"v_head_dim": 120}),
    (DEEPSEEK_R1, {"kv_lora_rank": 500}),
    (KIMI_K25, {"model_type": "kimi_linear"}),
    (KIMI_K25, {"scoring_func": "softmax"}),
    (GLM_5, {"indexer_rope_interleave": False}),
    (GLM_5, {"indexer_types": ["full", "shared"]}),
    (MINIMAX_M25, {"qk_norm_type": "per_head"}),
    (MINIMAX_M25, {"use_qk_norm": False}),
    (MINIMAX_M25, {"attn_type_list": [0, *[1] * 61]}),
    (MINIMAX_M25, {"shared_intermediate_size": 1536}),
    (MINIMAX_M25, {"use_routing_bias": False}),
    (MINIMAX_M25, {"scoring_func": "softmax"}),
    (QWEN_397B, {"attn_output_gate": False}),
    (QWEN_397B, {"mlp_only_layers": [0]}),
]


@pytest.mark.parametrize(("config", "change"), UNSUPPORTED, ids=lambda value: str(value)[:40])
def test_a_variant_is_refused_by_its_key(config: dict[str, Any], change: dict[str, Any]) -> None:
    changed = scaled(config)
    changed.get("text_config", changed).update(change)
    with pytest.raises(UnsupportedError, match=next(iter(change))):
        read(changed)


def test_an_unknown_kind_of_rotation_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="rope_scaling.type"):
        read(scaled(DEEPSEEK_R1, rope_scaling={"type": "llama3", "factor": 8}))


DAMAGED = [
    (DEEPSEEK_R1, {"hidden_size": None}),
    (DEEPSEEK_R1, {"q_lora_rank": None}),
    (DEEPSEEK_R1, {"first_k_dense_replace": -1}),
    (DEEPSEEK_R1, {"n_group": 7}),
    (DEEPSEEK_R1, {"topk_group": 9}),
    (DEEPSEEK_R1, {"num_experts_per_tok": 200}),
    (GLM_5, {"index_topk": 0}),
    (GLM_5, {"index_head_dim": 32}),
    (KIMI_K25, {"rms_norm_eps": "small"}),
    (MINIMAX_M25, {"rotary_dim": 63}),
    (MINIMAX_M25, {"num_key_value_heads": 7}),
    (MINIMAX_M25, {"num_experts_per_tok": 257}),
    (QWEN_397B, {"num_key_value_heads": 3}),
]


@pytest.mark.parametrize(("config", "change"), DAMAGED, ids=lambda value: str(value)[:40])
def test_a_number_that_can_not_be_is_named(config: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="config.json"):
        read(scaled(config, **change))
