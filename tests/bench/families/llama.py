"""Llama: plain grouped-query attention and one dense network a layer, for judging formats on a small real model.

Not a family that the package runs: `tests.bench.smollm2` offers it to the runtime of its own process. A layer's dense
network is planned as the only expert of an expert layer, so that a recipe treats it as it does routed experts.
Tensors have the names of GGUF, which orders the rows of queries and keys for the interleaved rotation.
Reference: llama.cpp `llama`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpu_runtime.caches.size import CacheSize
from cpu_runtime.caches.tokens import KVCache
from cpu_runtime.experts.store import ExpertStore
from cpu_runtime.layers.decoder import Block, Decoder
from cpu_runtime.layers.grouped_attention import GroupedAttention
from cpu_runtime.layers.linear import Activations, Embedding, Linear
from cpu_runtime.layers.moe import MoE
from cpu_runtime.layers.norm import NO_NORM, RMSNorm
from cpu_runtime.layers.rope import Frequencies, InterleavedRope
from cpu_runtime.models.config import Keys, frequencies
from cpu_runtime.text.syntax import ChatSyntax
from quant.container import QuantizedModel
from quant.plan import Dense, ExpertLayer, Part, Plan

chat = ChatSyntax(stops=("<|im_end|>",))


@dataclass(frozen=True)
class PlainAttention(GroupedAttention):
    """Queries and keys are rotated as they are projected."""

    def __call__(self, x: Activations, cache: KVCache) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the cache grows by T tokens."""
        query, key, value = self.projections(x)
        return self.o(Activations(self.mix(query, key, value, cache, x.workspace).reshape(len(query), -1), x.workspace))


@dataclass(frozen=True)
class OnlyExpert:
    """A router that has no choice."""

    active: int = 1

    def __call__(self, x: Activations) -> tuple[np.ndarray, np.ndarray]:
        """Shapes: x of T rows -> experts [T, 1] i32, weights [T, 1] f32."""
        return np.zeros((len(x.x), 1), np.int32), np.ones((len(x.x), 1), np.float32)


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
    width: int
    rope: Frequencies


def read(config: dict[str, Any]) -> Config:
    """The config of a checkpoint."""
    keys = Keys(config)
    keys.expect("tie_word_embeddings", True)
    head_size = keys.size("head_dim")
    return Config(
        hidden=keys.size("hidden_size"),
        vocab=keys.size("vocab_size"),
        context=keys.size("max_position_embeddings"),
        eps=keys.number("rms_norm_eps"),
        layers=keys.layers(),
        heads=keys.size("num_attention_heads"),
        kv_heads=keys.size("num_key_value_heads"),
        head_size=head_size,
        width=keys.size("intermediate_size"),
        rope=frequencies(keys, head_size),
    )


def plan(c: Config, names: Collection[str]) -> Plan:
    """Where each tensor goes; the embedding is the head too."""
    dense = [
        Dense("embed", "token_embd.weight", "embedding", (c.vocab, c.hidden)),
        Dense("norm", "output_norm.weight", "norm", (c.hidden,), kind="vector"),
        Dense("head", "token_embd.weight", "head", (c.vocab, c.hidden)),
    ]
    experts = []
    queries, keys = c.heads * c.head_size, c.kv_heads * c.head_size
    attention = {"q": (queries, c.hidden), "k": (keys, c.hidden), "v": (keys, c.hidden), "o": (c.hidden, queries)}
    theirs = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    network = {"gate": (c.width, c.hidden), "up": (c.width, c.hidden), "down": (c.hidden, c.width)}
    for layer in range(c.layers):
        at = f"blk.{layer}."
        for norm, name in (("norm1", "attn_norm"), ("norm2", "ffn_norm")):
            dense.append(Dense(f"layers.{layer}.{norm}", f"{at}{name}.weight", "norm", (c.hidden,), kind="vector"))
        for part, shape in attention.items():
            dense.append(Dense(f"layers.{layer}.attn.{part}", f"{at}{theirs[part]}.weight", "attention", shape))
        parts = (Part(part, f"{at}ffn_{part}.{{expert}}.weight", shape) for part, shape in network.items())
        experts.append(ExpertLayer(layer, 1, tuple(parts)))
    return Plan(tuple(dense), tuple(experts))


def cache_size(c: Config) -> CacheSize:
    """Keys and values of every layer."""
    products = c.layers * 2 * c.heads * c.head_size
    return CacheSize(c.layers * 2 * c.kv_heads * c.head_size, products=products, absorbed=products)


def build(c: Config, model: QuantizedModel, store: ExpertStore) -> Decoder:
    """The decoder over a quantized model's weights."""

    def norm(name: str) -> RMSNorm:
        return RMSNorm(model.vector(name), c.eps)

    def block(layer: int) -> Block:
        at = f"layers.{layer}."
        attention = PlainAttention(
            **{part: Linear(model.matrix(f"{at}attn.{part}")) for part in ("q", "k", "v", "o")},
            q_norm=NO_NORM,
            k_norm=NO_NORM,
            rope=InterleavedRope(c.rope),
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_size=c.head_size,
        )
        return Block(norm(at + "norm1"), attention, norm(at + "norm2"), MoE(layer, OnlyExpert(), store))

    blocks = [block(layer) for layer in range(c.layers)]
    return Decoder(Embedding(model.matrix("embed")), blocks, norm("norm"), Linear(model.matrix("head")))
