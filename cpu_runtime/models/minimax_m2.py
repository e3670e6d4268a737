"""MiniMax-M2: grouped-query attention with wide query and key norms, and sigmoid-routed experts in every layer.

Checkpoints: MiniMaxAI/MiniMax-M2, -M2.1, -M2.5 (fp8 in 128 x 128 blocks). Reference: transformers `minimax_m2`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from cpu_runtime.caches.size import CacheSize
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Block, Decoder
from cpu_runtime.layers.linear import Embedding, Linear
from cpu_runtime.layers.moe import MoE, SigmoidRouter
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Frequencies, HalfSplitRope
from cpu_runtime.layers.wide_norm_attention import WideNormAttention
from cpu_runtime.models.config import Keys, frequencies
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools import minimax_xml
from quant.container import QuantizedModel
from quant.errors import CheckpointError
from quant.plan import Dense, ExpertLayer, Part, Plan

chat = ChatSyntax(tools=minimax_xml, stops=("[e~[",))
# The checkpoint's names of an expert's matrices.
PARTS = {"gate": "w1", "up": "w3", "down": "w2"}


@dataclass(frozen=True)
class Config:
    """The numbers of config.json."""

    hidden: int
    vocab: int
    context: int
    eps: float
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    rope: Frequencies
    experts: int
    active: int
    expert_width: int


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint, checked; raises UnsupportedError or CheckpointError naming the key."""
    keys = Keys(config)
    keys.expect("hidden_act", "silu")
    keys.expect("tie_word_embeddings", False)
    keys.expect("scoring_func", "sigmoid")
    keys.expect("use_qk_norm", True)
    keys.expect("qk_norm_type", "per_layer")
    keys.expect("use_routing_bias", True)
    keys.expect("shared_intermediate_size", 0)
    layers, head_size = keys.layers(), keys.size("head_dim")
    keys.expect("attn_type_list", [1] * layers)  # 0 would be the linear attention of earlier MiniMax models
    c = Config(
        hidden=keys.size("hidden_size"),
        vocab=keys.size("vocab_size"),
        context=keys.size("max_position_embeddings"),
        eps=keys.number("rms_norm_eps"),
        layers=layers,
        heads=keys.size("num_attention_heads"),
        kv_heads=keys.size("num_key_value_heads"),
        head_size=head_size,
        rope=frequencies(keys, _rotated(keys, head_size)),
        experts=keys.size("num_local_experts"),
        active=keys.size("num_experts_per_tok"),
        expert_width=keys.size("intermediate_size"),
    )
    if c.heads % c.kv_heads:
        raise CheckpointError(
            f"config.json: num_attention_heads {c.heads} is not a multiple of num_key_value_heads {c.kv_heads}"
        )
    if c.active > c.experts:
        raise CheckpointError(f"config.json: num_experts_per_tok {c.active} exceeds num_local_experts {c.experts}")
    return c


def _rotated(keys: Keys, head_size: int) -> int:
    """Rotated dimensions of a head: `rotary_dim`, or a share of the head in the newer spelling."""
    if "rotary_dim" in keys:
        return keys.size("rotary_dim")
    return int(head_size * keys.inside("rope_parameters").number("partial_rotary_factor", 1))


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes."""
    dense = [
        Dense("embed", "model.embed_tokens.weight", "embedding", (c.vocab, c.hidden)),
        Dense("norm", "model.norm.weight", "norm", (c.hidden,), kind="vector"),
        Dense("head", "lm_head.weight", "head", (c.vocab, c.hidden)),
    ]
    experts = []
    for layer in range(c.layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        moe = theirs + "block_sparse_moe."
        for norm, name in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
            dense.append(Dense(ours + norm, f"{theirs}{name}.weight", "norm", (c.hidden,), kind="vector"))
        dense += _attention(c, ours + "attn.", theirs + "self_attn.")
        dense.append(Dense(ours + "moe.router", moe + "gate.weight", "router", (c.experts, c.hidden)))
        bias = moe + "e_score_correction_bias"
        dense.append(Dense(ours + "moe.bias", bias, "router", (c.experts,), kind="vector"))
        experts.append(ExpertLayer(layer, c.experts, _expert_parts(c, moe + "experts.{expert}.")))
    return Plan(tuple(dense), tuple(experts))


def _attention(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
    shapes = {"q": (queries, c.hidden), "k": (keys, c.hidden), "v": (keys, c.hidden), "o": (c.hidden, queries)}
    for part, shape in shapes.items():
        yield Dense(ours + part, f"{theirs}{part}_proj.weight", "attention", shape)
    for part, width in (("q_norm", queries), ("k_norm", keys)):
        yield Dense(ours + part, f"{theirs}{part}.weight", "norm", (width,), kind="vector")


def _expert_parts(c: Config, theirs: str) -> tuple[Part, ...]:
    wide, narrow = (c.expert_width, c.hidden), (c.hidden, c.expert_width)
    shapes = {"gate": wide, "up": wide, "down": narrow}
    return tuple(Part(part, f"{theirs}{PARTS[part]}.weight", shape) for part, shape in shapes.items())


def cache_size(c: Config) -> CacheSize:
    """Keys and values of every layer."""
    products = c.layers * 2 * c.heads * c.head_size
    return CacheSize(c.layers * 2 * c.kv_heads * c.head_size, products=products, absorbed=products)


def build(c: Config, model: QuantizedModel, store: ExpertStore) -> Decoder:
    """The decoder over a quantized model's weights."""

    def linear(name: str) -> Linear:
        return Linear(model.matrix(name))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(model.vector(name), c.eps)

    def block(layer: int) -> Block:
        at = f"layers.{layer}."
        attention = WideNormAttention(
            **{part: linear(f"{at}attn.{part}") for part in ("q", "k", "v", "o")},
            q_norm=norm(at + "attn.q_norm"),
            k_norm=norm(at + "attn.k_norm"),
            rope=HalfSplitRope(c.rope),
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_size=c.head_size,
        )
        router = SigmoidRouter(linear(at + "moe.router"), model.vector(at + "moe.bias"), c.active)
        return Block(norm(at + "norm1"), attention, norm(at + "norm2"), MoE(layer, router, store))

    return Decoder(Embedding(model.matrix("embed")), [block(n) for n in range(c.layers)], norm("norm"), linear("head"))
