"""What is lost quietly if it is done wrong, and shows in no mistake of the other files here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine, plan_for
from cpu_runtime.caches.recurrent import RecurrentState
from cpu_runtime.kernels.delta import delta_gates
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.moe import MoE
from cpu_runtime.layers.sparse_attention import SparseLatentAttention
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.errors import CheckpointError
from quant.plan import check
from quant.recipe import built_in, load_recipe
from tests import reference
from tests.checkpoints import change_json, copy_of, header_of, write_safetensors
from tests.conftest import FIXTURES, Quantized
from tests.recordings import CHECKPOINTS

ONE_EACH = ("deepseek_v3_fp8", "glm_moe_dsa_bf16", "kimi_k25_int4", "minimax_m2_fp8", "qwen3_5_fused")


@pytest.mark.parametrize("recipe", [name for name in built_in() if not load_recipe(name).needs_statistics])
@pytest.mark.parametrize("name", ONE_EACH)
def test_routers_are_computed_from_unrounded_weights(quantized: Quantized, name: str, recipe: str) -> None:
    """A router that is rounded picks other experts."""
    with Engine.open(quantized(FIXTURES / name, recipe)) as engine, Checkpoint.open(FIXTURES / name) as source:
        entries = engine.model.manifest["dense"]
        routers = [entry for entry in entries.values() if entry["role"] in ("router", "gate")]
        assert routers
        assert {entry.get("format", "f32") for entry in routers} == {"f32"}
        for block in engine.decoder.blocks:
            if isinstance(block.feed_forward, MoE):
                layer = block.feed_forward.layer
                gate = block.feed_forward.router.gate.matrix.unpack()  # type: ignore[attr-defined]
                assert np.array_equal(gate, source.values(entries[f"layers.{layer}.moe.router"]["source"]))


def test_a_recurrent_state_is_float32_whatever_the_caches_are(quantized: Quantized) -> None:
    """Errors in it accumulate."""
    with Engine.open(quantized(FIXTURES / "qwen3_5_fused", "int4"), kv_dtype="float16") as engine:
        states = [cache for cache in engine.session()._caches if isinstance(cache, RecurrentState)]
        assert states
        assert {array.dtype for state in states for array in (state.conv, state.memory)} == {np.dtype(np.float32)}


def test_gates_do_not_overflow() -> None:
    """softplus(a) is a for large a, where exp(a) is infinite."""
    a = np.array([[-1e4, -100, 0, 30, 100, 1e4]], np.float32)
    b, a_log, bias = np.zeros_like(a), np.zeros(6, np.float32), np.zeros(6, np.float32)
    decay, beta = np.empty_like(a), np.empty_like(a)
    delta_gates(a, b, a_log, bias, decay, beta)
    np.testing.assert_allclose(decay, reference.delta_gates(a, b, a_log, bias)[0], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", ["kimi_k25_int4", "glm_moe_dsa_bf16"])
def test_norms_inside_latent_attention_keep_their_own_epsilon(quantized: Quantized, name: str) -> None:
    with Engine.open(quantized(FIXTURES / name, "bf16")) as engine:
        for block in engine.decoder.blocks:
            mixer = block.mixer.latent if isinstance(block.mixer, SparseLatentAttention) else block.mixer
            assert isinstance(mixer, LatentAttention)
            assert (mixer.q_norm.eps, mixer.kv_norm.eps) == (np.float32(1e-6), np.float32(1e-6))
            assert (block.norm1.eps, block.norm2.eps, engine.decoder.norm.eps) == (np.float32(1e-5),) * 3


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_tensor_without_a_place_is_refused(tmp_path: Path, name: str) -> None:
    """Vision and MTP tensors are in these checkpoints and are skipped; one that nobody knows is not."""
    folder = copy_of(FIXTURES / name, tmp_path / name)
    shard = sorted(folder.glob("*.safetensors"))[0]
    header, data = header_of(shard)
    size = max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    header["model.layers.0.self_attn.sinks"] = {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]}
    write_safetensors(shard, header, data + bytes(4))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        weight_map = json.loads(index.read_text())["weight_map"]
        change_json(index, weight_map={**weight_map, "model.layers.0.self_attn.sinks": shard.name})
    with Checkpoint.open(folder) as source, pytest.raises(CheckpointError, match="sinks"):
        check(plan_for(source.config, source.names), source)


@pytest.mark.parametrize(
    "name", [name for name in CHECKPOINTS if name.startswith(("kimi_k25", "glm", "deepseek", "qwen"))]
)
def test_the_checkpoints_hold_what_is_to_be_skipped(name: str) -> None:
    with Checkpoint.open(FIXTURES / name) as source:
        plan = plan_for(source.config, source.names)
        taken = {dense.source for dense in plan.dense} | {
            part.tensor(expert) for layer in plan.experts for part in layer.parts for expert in range(layer.n_experts)
        }
        stems = tuple(f"{tensor}_" for tensor in taken)
        left = [n for n in source.names if n not in taken and not n.startswith(stems)]
        assert bool(left) == bool(plan.skip), left


@pytest.mark.parametrize("name", ["kimi_k25_int4", "kimi_k25_v3type"])
def test_kimi_experts_are_the_same_numbers(quantized: Quantized, name: str) -> None:
    """Codes and scales are copied: what ours stand for equals what theirs stand for, bit for bit."""
    with Engine.open(quantized(FIXTURES / name, "int4")) as engine, Checkpoint.open(FIXTURES / name) as source:
        plan = plan_for(source.config, source.names)
        for layer in plan.experts:
            stored = engine.model.expert_layer(layer.layer)
            for part in layer.parts:
                place = stored.parts[part.name]
                assert place.format.name == "k4"
                for expert in range(layer.n_experts):
                    record = stored.records[expert, place.offset : place.offset + place.bytes]
                    tiles = record.reshape(-1, place.format.tile_bytes(place.cols))
                    ours = place.format.unpack(tiles, place.rows, place.cols)
                    theirs = source.rows(part.tensor(expert), 0, place.rows)
                    assert np.array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_every_recipe_answers(tmp_path: Path, name: str, recipe: str) -> None:
    with Checkpoint.open(FIXTURES / name) as source:
        folder = convert(source, plan_for(source.config, source.names), load_recipe(recipe), tmp_path / "model")
    with Engine.open(folder) as engine:
        ids = np.load(FIXTURES / name / "recorded.npz")["ids"].tolist()
        assert np.isfinite(np.concatenate(list(engine.logits(ids)))).all()
