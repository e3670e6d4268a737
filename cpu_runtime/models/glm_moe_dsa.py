"""GLM-5: DeepSeek-V3's stack with an indexer in every layer, which picks the 2048 positions that are attended to.

Checkpoints: zai-org/GLM-5, GLM-5.1 (bf16) and their -FP8 repositories; the MTP layer is skipped. Reference:
transformers `glm_moe_dsa`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from cpu_runtime.caches.size import CacheSize
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.linear import Linear
from cpu_runtime.layers.norm import LayerNorm
from cpu_runtime.layers.rope import InterleavedRope
from cpu_runtime.layers.sparse_attention import Indexer, SparseLatentAttention
from cpu_runtime.models import deepseek_v3
from cpu_runtime.models.config import Keys
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools import glm_xml
from quant.container import QuantizedModel
from quant.errors import CheckpointError, UnsupportedError
from quant.plan import Dense, Plan

chat = ChatSyntax(
    tools=glm_xml,
    switch="enable_thinking",
    stops=("<|endoftext|>", "<|user|>", "<|observation|>"),
    variables={"clear_thinking": True},
)
KEY_NORM_EPS = 1e-6  # of the indexer's LayerNorm; a constant of the reference


@dataclass(frozen=True)
class Config(deepseek_v3.Config):
    """The numbers of config.json."""

    index_heads: int
    index_size: int
    index_top: int


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint, checked; raises UnsupportedError or CheckpointError naming the key."""
    keys = Keys(config)
    keys.expect("indexer_rope_interleave", True)
    kinds = keys.words("indexer_types")
    if kinds is not None and set(kinds) != {"full"}:
        raise UnsupportedError("config.json: 'indexer_types' shares selections between layers; this version does not")
    c = Config(
        **vars(deepseek_v3.read_keys(keys)),
        index_heads=keys.size("index_n_heads"),
        index_size=keys.size("index_head_dim"),
        index_top=keys.size("index_topk"),
    )
    if c.index_size < c.rotated:
        raise CheckpointError(
            f"config.json: index_head_dim {c.index_size} can't hold the {c.rotated} rotated dimensions"
        )
    return c


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes."""
    return deepseek_v3.plan_under(c, "", skip=deepseek_v3.mtp(c, ""), attention=_attention)


def _attention(c: deepseek_v3.Config, ours: str, theirs: str) -> Iterator[Dense]:
    assert isinstance(c, Config)
    yield from deepseek_v3.latent_attention(c, ours, theirs)
    ours, theirs = ours + "index.", theirs + "indexer."
    yield Dense(ours + "q", theirs + "wq_b.weight", "attention", (c.index_heads * c.index_size, c.query_rank))
    yield Dense(ours + "k", theirs + "wk.weight", "attention", (c.index_size, c.hidden))
    yield Dense(ours + "weights", theirs + "weights_proj.weight", "gate", (c.index_heads, c.hidden))
    for part in ("weight", "bias"):
        yield Dense(f"{ours}k_norm.{part}", f"{theirs}k_norm.{part}", "norm", (c.index_size,), kind="vector")


def cache_size(c: Config) -> CacheSize:
    """Latent attention's, and the indexer's key in every layer."""
    latent, index = deepseek_v3.cache_size(c), c.layers * c.index_heads * c.index_size
    return CacheSize(
        latent.numbers + c.layers * c.index_size,
        products=latent.products + index,
        absorbed=latent.absorbed + index,
    )


def build(c: Config, model: QuantizedModel, store: ExpertStore) -> Decoder:
    """The decoder over a quantized model's weights."""

    def mixer(at: str) -> SparseLatentAttention:
        index = at + "index."
        indexer = Indexer(
            q=Linear(model.matrix(index + "q")),
            k=Linear(model.matrix(index + "k")),
            k_norm=LayerNorm(model.vector(index + "k_norm.weight"), model.vector(index + "k_norm.bias"), KEY_NORM_EPS),
            weights=Linear(model.matrix(index + "weights")),
            rope=InterleavedRope(c.rope),
            heads=c.index_heads,
            size=c.index_size,
            top=c.index_top,
        )
        return SparseLatentAttention(deepseek_v3.mla(c, model, at), indexer)

    return deepseek_v3.build_with(c, model, store, mixer)
