"""DeepSeek-V3 and R1: latent attention (MLA), and sigmoid-routed experts beside a shared one after a few dense layers.

Checkpoints: deepseek-ai/DeepSeek-R1, -V3, -V3-0324, -V3.1 (fp8 in 128 x 128 blocks; MTP layers are skipped). Kimi K2
and K2.5 are the same model in other numbers, GLM-5 adds an indexer. Reference: transformers `deepseek_v3`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from cpu_runtime.caches.size import CacheSize
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Block, Decoder, Mixer
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Embedding, HeadwiseLinear, Linear
from cpu_runtime.layers.moe import MLP, MoE, SigmoidRouter
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import Frequencies, InterleavedRope
from cpu_runtime.models.config import Keys, frequencies, multiple_of_16
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools import deepseek_fences
from quant.container import QuantizedModel
from quant.errors import CheckpointError
from quant.plan import Dense, ExpertLayer, HeadSlice, Part, Plan

chat = ChatSyntax(tools=deepseek_fences, switch="thinking", stops=("<｜end▁of▁sentence｜>",))
LATENT_EPS = 1e-6  # of the norms inside latent attention: a default of the authors' code, whatever rms_norm_eps says


@dataclass(frozen=True)
class Config:
    """The numbers of config.json."""

    hidden: int
    vocab: int
    context: int
    eps: float
    layers: int
    dense_layers: int  # the first ones, which have no experts
    mtp_layers: int  # behind the last one, for speculation; not read
    heads: int
    query_rank: int
    rank: int
    nope: int  # numbers of a head's query and key that are not rotated
    rotated: int
    value_size: int
    rope: Frequencies
    dense_width: int
    experts: int
    active: int
    expert_width: int
    shared_width: int
    groups: int
    kept_groups: int
    factor: float

    @property
    def scale(self) -> float:
        """What scores are multiplied by before the softmax."""
        return float((self.nope + self.rotated) ** -0.5 * self.rope.softmax)


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint, checked; raises UnsupportedError or CheckpointError naming the key."""
    return read_keys(Keys(config))


def read_keys(keys: Keys) -> Config:
    """The same for the object that holds the language model's numbers."""
    keys.expect("hidden_act", "silu")
    keys.expect("attention_bias", False)
    keys.expect("tie_word_embeddings", False)
    keys.expect("moe_layer_freq", 1)
    keys.expect("scoring_func", "sigmoid")
    keys.expect("topk_method", "noaux_tc")
    keys.expect("norm_topk_prob", True)
    keys.expect("rope_interleave", True)
    rotated = keys.size("qk_rope_head_dim")
    width = keys.size("moe_intermediate_size")
    c = Config(
        hidden=keys.size("hidden_size"),
        vocab=keys.size("vocab_size"),
        context=keys.size("max_position_embeddings"),
        eps=keys.number("rms_norm_eps"),
        layers=keys.layers(),
        dense_layers=keys.count("first_k_dense_replace"),
        mtp_layers=keys.count("num_nextn_predict_layers", 0),
        heads=keys.size("num_attention_heads"),
        query_rank=keys.size("q_lora_rank"),
        rank=keys.size("kv_lora_rank"),
        nope=keys.size("qk_nope_head_dim"),
        rotated=rotated,
        value_size=keys.size("v_head_dim"),
        rope=frequencies(keys, rotated),
        dense_width=keys.size("intermediate_size"),
        experts=keys.size("n_routed_experts"),
        active=keys.size("num_experts_per_tok"),
        expert_width=width,
        shared_width=width * keys.size("n_shared_experts"),
        groups=keys.size("n_group", 1),
        kept_groups=keys.size("topk_group", 1),
        factor=keys.number("routed_scaling_factor"),
    )
    multiple_of_16(kv_lora_rank=c.rank, v_head_dim=c.value_size)
    if c.experts % c.groups or c.kept_groups > c.groups:
        raise CheckpointError(
            f"config.json: {c.kept_groups} of {c.groups} groups of n_routed_experts {c.experts} can't be chosen"
        )
    if c.active > c.experts // c.groups * c.kept_groups:
        raise CheckpointError(f"config.json: num_experts_per_tok {c.active} exceeds the experts to choose from")
    return c


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes."""
    return plan_under(c, "", skip=mtp(c, ""))


def mtp(c: Config, prefix: str) -> tuple[str, ...]:
    """Patterns of the layers behind the last one."""
    return tuple(rf"{prefix}model\.layers\.{c.layers + n}\..*" for n in range(c.mtp_layers))


def plan_under(
    c: Config,
    prefix: str,
    *,
    skip: tuple[str, ...],
    attention: Callable[[Config, str, str], Iterator[Dense]] | None = None,
) -> Plan:
    """The same for tensors whose names begin with `prefix`, and for a family whose attention has more to it."""
    dense = [
        Dense("embed", f"{prefix}model.embed_tokens.weight", "embedding", (c.vocab, c.hidden)),
        Dense("norm", f"{prefix}model.norm.weight", "norm", (c.hidden,), kind="vector"),
        Dense("head", f"{prefix}lm_head.weight", "head", (c.vocab, c.hidden)),
    ]
    experts = []
    for layer in range(c.layers):
        ours, theirs = f"layers.{layer}.", f"{prefix}model.layers.{layer}."
        for norm, name in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
            dense.append(Dense(ours + norm, f"{theirs}{name}.weight", "norm", (c.hidden,), kind="vector"))
        dense += (attention or latent_attention)(c, ours + "attn.", theirs + "self_attn.")
        if layer < c.dense_layers:
            dense += _mlp(c, ours + "mlp.", theirs + "mlp.", "mlp", c.dense_width)
        else:
            dense += _always_active(c, ours + "moe.", theirs + "mlp.")
            experts.append(ExpertLayer(layer, c.experts, _expert_parts(c, theirs + "mlp.experts.{expert}.")))
    return Plan(tuple(dense), tuple(experts), skip)


def latent_attention(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    """The tensors of a layer's MLA."""
    each = c.nope + c.value_size
    yield Dense(ours + "q_a", theirs + "q_a_proj.weight", "attention", (c.query_rank, c.hidden))
    yield Dense(ours + "q_b", theirs + "q_b_proj.weight", "attention", (c.heads * (c.nope + c.rotated), c.query_rank))
    yield Dense(ours + "kv_a", theirs + "kv_a_proj_with_mqa.weight", "attention", (c.rank + c.rotated, c.hidden))
    slices = {
        "key_up": ((c.heads * c.nope, c.rank), HeadSlice(c.heads, each, 0, c.nope)),
        "value_up": ((c.heads * c.value_size, c.rank), HeadSlice(c.heads, each, c.nope, each)),
        "absorb": ((c.heads * c.rank, c.nope), HeadSlice(c.heads, each, 0, c.nope, transposed=True)),
    }
    for part, (shape, rows) in slices.items():
        yield Dense(ours + part, theirs + "kv_b_proj.weight", "attention", shape, heads=rows)
    yield Dense(ours + "o", theirs + "o_proj.weight", "attention", (c.hidden, c.heads * c.value_size))
    yield Dense(ours + "q_norm", theirs + "q_a_layernorm.weight", "norm", (c.query_rank,), kind="vector")
    yield Dense(ours + "kv_norm", theirs + "kv_a_layernorm.weight", "norm", (c.rank,), kind="vector")


def _always_active(c: Config, ours: str, theirs: str) -> Iterator[Dense]:
    yield Dense(ours + "router", theirs + "gate.weight", "router", (c.experts, c.hidden))
    yield Dense(ours + "bias", theirs + "gate.e_score_correction_bias", "router", (c.experts,), kind="vector")
    yield from _mlp(c, ours + "shared.", theirs + "shared_experts.", "shared", c.shared_width)


def _mlp(c: Config, ours: str, theirs: str, role: str, width: int) -> Iterator[Dense]:
    for part, shape in {"gate": (width, c.hidden), "up": (width, c.hidden), "down": (c.hidden, width)}.items():
        yield Dense(ours + part, f"{theirs}{part}_proj.weight", role, shape)


def _expert_parts(c: Config, theirs: str) -> tuple[Part, ...]:
    wide, narrow = (c.expert_width, c.hidden), (c.hidden, c.expert_width)
    shapes = {"gate": wide, "up": wide, "down": narrow}
    return tuple(Part(part, f"{theirs}{part}_proj.weight", shape) for part, shape in shapes.items())


def cache_size(c: Config) -> CacheSize:
    """A latent row and a rotated key in every layer."""
    heads = c.layers * c.heads
    return CacheSize(
        c.layers * (c.rank + c.rotated),
        products=heads * (c.nope + c.rotated + c.value_size),
        absorbed=heads * (2 * c.rank + c.rotated),
    )


def build(c: Config, model: QuantizedModel, store: ExpertStore) -> Decoder:
    """The decoder over a quantized model's weights."""
    return build_with(c, model, store, lambda at: mla(c, model, at))


def build_with(c: Config, model: QuantizedModel, store: ExpertStore, mixer: Callable[[str], Mixer]) -> Decoder:
    """The same with another mixer; `mixer` makes the one whose tensors' names begin with its argument."""

    def linear(name: str) -> Linear:
        return Linear(model.matrix(name))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(model.vector(name), c.eps)

    def mlp(at: str) -> MLP:
        return MLP(*(linear(at + part) for part in ("gate", "up", "down")))

    def feed_forward(layer: int) -> MLP | MoE:
        if layer < c.dense_layers:
            return mlp(f"layers.{layer}.mlp.")
        at = f"layers.{layer}.moe."
        router = SigmoidRouter(
            linear(at + "router"),
            model.vector(at + "bias"),
            c.active,
            groups=c.groups,
            kept=c.kept_groups,
            eps=1e-20,
            factor=c.factor,
        )
        return MoE(layer, router, store, mlp(at + "shared."))

    blocks = []
    for layer in range(c.layers):
        at = f"layers.{layer}."
        blocks.append(Block(norm(at + "norm1"), mixer(at + "attn."), norm(at + "norm2"), feed_forward(layer)))
    return Decoder(Embedding(model.matrix("embed")), blocks, norm("norm"), linear("head"))


def mla(c: Config, model: QuantizedModel, at: str) -> LatentAttention:
    """A layer's latent attention."""
    return LatentAttention(
        q_a=Linear(model.matrix(at + "q_a")),
        q_norm=RMSNorm(model.vector(at + "q_norm"), LATENT_EPS),
        q_b=Linear(model.matrix(at + "q_b")),
        kv_a=Linear(model.matrix(at + "kv_a")),
        kv_norm=RMSNorm(model.vector(at + "kv_norm"), LATENT_EPS),
        key_up=model.matrix(at + "key_up"),
        value_up=HeadwiseLinear(model.matrix(at + "value_up"), c.heads),
        absorb=HeadwiseLinear(model.matrix(at + "absorb"), c.heads),
        o=Linear(model.matrix(at + "o")),
        rope=InterleavedRope(c.rope),
        scale=c.scale,
    )
