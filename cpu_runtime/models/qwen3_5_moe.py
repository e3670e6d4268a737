"""Qwen3.5 MoE: Gated DeltaNet layers, every fourth a gated full-attention layer, and experts in every layer.

Checkpoints: Qwen/Qwen3.5-397B-A17B, -122B-A10B, -35B-A3B (bf16; the text part, vision and MTP tensors are skipped).
Reference: transformers `qwen3_5_moe`. Norm weights are zero-centred (1 + w) except the DeltaNet output norm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpu_runtime.caches.size import CacheSize
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Block, Decoder, Mixer
from cpu_runtime.layers.gated_attention import GatedAttention
from cpu_runtime.layers.gated_delta import GatedDelta
from cpu_runtime.layers.linear import Embedding, Linear
from cpu_runtime.layers.moe import MLP, GatedMLP, MoE, SoftmaxRouter
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Frequencies, HalfSplitRope
from cpu_runtime.models.config import Keys, frequencies
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools import qwen_xml
from quant.container import QuantizedModel
from quant.errors import CheckpointError
from quant.plan import Dense, ExpertLayer, Part, Plan

SKIP = (r"model\.visual\..*", r"mtp\..*")

chat = ChatSyntax(tools=qwen_xml, switch="enable_thinking", stops=("<|im_end|>", "<|endoftext|>"))


@dataclass(frozen=True)
class Config:
    """The numbers of `text_config`."""

    hidden: int
    vocab: int
    context: int
    eps: float
    full_attention: tuple[bool, ...]  # one a layer; the others are Gated DeltaNet
    heads: int
    kv_heads: int
    head_size: int
    rope: Frequencies
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    taps: int
    experts: int
    active: int
    expert_width: int
    shared_width: int

    @property
    def conv_channels(self) -> int:
        """Queries, keys and values of a DeltaNet layer side by side."""
        return 2 * self.key_heads * self.key_size + self.value_heads * self.value_size


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint, checked; raises UnsupportedError or CheckpointError naming the key."""
    top = Keys(config)
    text = top.inside("text_config") if "text_config" in top else top
    text.expect("hidden_act", "silu")
    text.expect("attention_bias", False)
    text.expect("attn_output_gate", True)
    text.expect("tie_word_embeddings", False)
    text.expect("mlp_only_layers", [])
    rope = text.inside("rope_parameters")
    rope.expect("rope_type", "default")
    head_size = text.size("head_dim")
    c = Config(
        hidden=text.size("hidden_size"),
        vocab=text.size("vocab_size"),
        context=text.size("max_position_embeddings"),
        eps=text.number("rms_norm_eps", 1e-6),
        full_attention=_layer_kinds(text),
        heads=text.size("num_attention_heads"),
        kv_heads=text.size("num_key_value_heads"),
        head_size=head_size,
        rope=frequencies(text, int(head_size * rope.number("partial_rotary_factor", 0.25))),
        key_heads=text.size("linear_num_key_heads"),
        value_heads=text.size("linear_num_value_heads"),
        key_size=text.size("linear_key_head_dim"),
        value_size=text.size("linear_value_head_dim"),
        taps=text.size("linear_conv_kernel_dim"),
        experts=text.size("num_experts"),
        active=text.size("num_experts_per_tok"),
        expert_width=text.size("moe_intermediate_size"),
        shared_width=text.size("shared_expert_intermediate_size"),
    )
    _divides("num_key_value_heads", c.kv_heads, "num_attention_heads", c.heads)
    _divides("linear_num_key_heads", c.key_heads, "linear_num_value_heads", c.value_heads)
    if c.active > c.experts:
        raise CheckpointError(f"config.json: num_experts_per_tok {c.active} exceeds num_experts {c.experts}")
    return c


def _layer_kinds(text: Keys) -> tuple[bool, ...]:
    layers = text.layers()
    kinds = text.words("layer_types")
    if kinds is None:
        interval = text.size("full_attention_interval", 4)
        return tuple((layer + 1) % interval == 0 for layer in range(layers))
    known = {"linear_attention": False, "full_attention": True}
    if len(kinds) != layers or not set(kinds) <= set(known):
        raise CheckpointError(f"config.json: 'layer_types' must name {layers} of {sorted(known)}, found {kinds}")
    return tuple(known[kind] for kind in kinds)


def _divides(small_key: str, small: int, large_key: str, large: int) -> None:
    if large % small:
        raise CheckpointError(f"config.json: {large_key} {large} is not a multiple of {small_key} {small}")


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes; routed experts may be stored fused (bf16 repositories) or one by one."""
    prefix = "model.language_model." if "model.language_model.embed_tokens.weight" in names else "model."
    dense = [
        Dense("embed", f"{prefix}embed_tokens.weight", "embedding", (c.vocab, c.hidden)),
        Dense("norm", f"{prefix}norm.weight", "norm", (c.hidden,), kind="vector"),
        Dense("head", "lm_head.weight", "head", (c.vocab, c.hidden)),
    ]
    experts = []
    for layer, full in enumerate(c.full_attention):
        ours, theirs = f"layers.{layer}.", f"{prefix}layers.{layer}."
        dense += _norms(c, ours, theirs)
        dense += _attention(c, ours, theirs) if full else _delta(c, ours, theirs)
        dense += _always_active(c, ours + "moe.", theirs + "mlp.")
        experts.append(ExpertLayer(layer, c.experts, _expert_parts(c, theirs + "mlp.experts.", names)))
    return Plan(tuple(dense), tuple(experts), SKIP)


def _norms(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    yield Dense(ours + "norm1", theirs + "input_layernorm.weight", "norm", (c.hidden,), kind="vector")
    yield Dense(ours + "norm2", theirs + "post_attention_layernorm.weight", "norm", (c.hidden,), kind="vector")


def _attention(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
    shapes = {"q": (2 * queries, c.hidden), "k": (keys, c.hidden), "v": (keys, c.hidden), "o": (c.hidden, queries)}
    for part, shape in shapes.items():
        yield Dense(f"{ours}attn.{part}", f"{theirs}self_attn.{part}_proj.weight", "attention", shape)
    for part in ("q_norm", "k_norm"):
        yield Dense(f"{ours}attn.{part}", f"{theirs}self_attn.{part}.weight", "norm", (c.head_size,), kind="vector")


def _delta(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    ours, theirs = ours + "delta.", theirs + "linear_attn."
    values = c.value_heads * c.value_size
    yield Dense(ours + "qkv", theirs + "in_proj_qkv.weight", "attention", (c.conv_channels, c.hidden))
    yield Dense(ours + "z", theirs + "in_proj_z.weight", "attention", (values, c.hidden))
    yield Dense(ours + "out", theirs + "out_proj.weight", "attention", (c.hidden, values))
    for part in ("a", "b"):
        yield Dense(ours + part, f"{theirs}in_proj_{part}.weight", "gate", (c.value_heads, c.hidden))
    yield Dense(ours + "conv", theirs + "conv1d.weight", "conv", (c.conv_channels, 1, c.taps), kind="vector")
    yield Dense(ours + "A_log", theirs + "A_log", "state", (c.value_heads,), kind="vector")
    yield Dense(ours + "dt_bias", theirs + "dt_bias", "state", (c.value_heads,), kind="vector")
    yield Dense(ours + "norm", theirs + "norm.weight", "norm", (c.value_size,), kind="vector")


def _always_active(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    wide, narrow = (c.shared_width, c.hidden), (c.hidden, c.shared_width)
    yield Dense(ours + "router", theirs + "gate.weight", "router", (c.experts, c.hidden))
    yield Dense(ours + "shared_gate", theirs + "shared_expert_gate.weight", "gate", (1, c.hidden))
    for part, shape in {"gate": wide, "up": wide, "down": narrow}.items():
        yield Dense(f"{ours}shared.{part}", f"{theirs}shared_expert.{part}_proj.weight", "shared", shape)


def _expert_parts(c: Config, theirs: str, names: Collection[str]) -> tuple[Part, ...]:
    wide, narrow = (c.expert_width, c.hidden), (c.hidden, c.expert_width)
    if theirs + "gate_up_proj" in names:
        return (
            Part("gate", theirs + "gate_up_proj", wide, rows=(0, c.expert_width)),
            Part("up", theirs + "gate_up_proj", wide, rows=(c.expert_width, 2 * c.expert_width)),
            Part("down", theirs + "down_proj", narrow),
        )
    return (
        Part("gate", theirs + "{expert}.gate_proj.weight", wide),
        Part("up", theirs + "{expert}.up_proj.weight", wide),
        Part("down", theirs + "{expert}.down_proj.weight", narrow),
    )


def cache_size(c: Config) -> CacheSize:
    """Keys and values of the full-attention layers; the others hold a state in float32."""
    full, state = sum(c.full_attention), c.value_heads * c.key_size * c.value_size
    recurrent = (len(c.full_attention) - full) * ((c.taps - 1) * c.conv_channels + state)
    products = full * 2 * c.heads * c.head_size
    return CacheSize(full * 2 * c.kv_heads * c.head_size, 4 * recurrent, products, products)


def build(c: Config, model: QuantizedModel, store: ExpertStore) -> Decoder:
    """The decoder over a quantized model's weights."""
    rope = HalfSplitRope(c.rope)

    def linear(name: str) -> Linear:
        return Linear(model.matrix(name))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(model.vector(name) + np.float32(1), c.eps)

    def attention(at: str) -> Mixer:
        return GatedAttention(
            q=linear(at + "q"),
            k=linear(at + "k"),
            v=linear(at + "v"),
            o=linear(at + "o"),
            q_norm=norm(at + "q_norm"),
            k_norm=norm(at + "k_norm"),
            rope=rope,
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_size=c.head_size,
        )

    def delta(at: str) -> Mixer:
        return GatedDelta(
            qkv=linear(at + "qkv"),
            z=linear(at + "z"),
            a=linear(at + "a"),
            b=linear(at + "b"),
            out=linear(at + "out"),
            conv=np.ascontiguousarray(model.vector(at + "conv").reshape(c.conv_channels, c.taps).T),
            A_log=model.vector(at + "A_log"),
            dt_bias=model.vector(at + "dt_bias"),
            norm=model.vector(at + "norm"),
            eps=c.eps,
            key_heads=c.key_heads,
            value_heads=c.value_heads,
            key_size=c.key_size,
            value_size=c.value_size,
        )

    def feed_forward(layer: int) -> MoE:
        at = f"layers.{layer}.moe."
        shared = MLP(*(linear(f"{at}shared.{part}") for part in ("gate", "up", "down")))
        router = SoftmaxRouter(linear(at + "router"), c.active)
        return MoE(layer, router, store, GatedMLP(shared, linear(at + "shared_gate")))

    blocks = []
    for layer, full in enumerate(c.full_attention):
        at = f"layers.{layer}."
        mixer = attention(at + "attn.") if full else delta(at + "delta.")
        blocks.append(Block(norm(at + "norm1"), mixer, norm(at + "norm2"), feed_forward(layer)))
    return Decoder(Embedding(model.matrix("embed")), blocks, norm("norm"), linear("head"))
