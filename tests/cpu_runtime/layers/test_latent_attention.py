"""Latent attention in both forms, and its sparse kind, against attention written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from cpu_runtime.layers import latent_attention
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Activations, HeadwiseLinear, Linear
from cpu_runtime.layers.norm import LayerNorm, RMSNorm
from cpu_runtime.layers.rope import InterleavedRope, plain
from cpu_runtime.layers.sparse_attention import Indexer, SparseLatentAttention
from quant.formats import FORMATS, Matrix
from tests import reference

D, H, RANK, NOPE, ROTATED, VALUE = 48, 6, 32, 24, 8, 32
QUERY_RANK, TOP, INDEX_HEADS, INDEX_SIZE = 40, 20, 16, 16
ROPE = plain(1e4, ROTATED)
F32 = np.dtype(np.float32)


def weights(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(list(shape))
    return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)


def matrix(values: np.ndarray) -> Matrix:
    return Matrix(FORMATS["f32"], *values.shape, FORMATS["f32"].pack(values))


Q_A, Q_B, KV_A = weights(QUERY_RANK, D), weights(H * (NOPE + ROTATED), QUERY_RANK), weights(RANK + ROTATED, D)
KV_B, OUT = weights(H * (NOPE + VALUE), RANK), weights(D, H * VALUE)
INDEX_Q, INDEX_K, INDEX_W = (
    weights(INDEX_HEADS * INDEX_SIZE, QUERY_RANK),
    weights(INDEX_SIZE, D),
    weights(INDEX_HEADS, D),
)
ONES = np.ones(256, np.float32)


def latent() -> LatentAttention:
    by_head = KV_B.reshape(H, NOPE + VALUE, RANK)
    keys, values = by_head[:, :NOPE], by_head[:, NOPE:]
    return LatentAttention(
        q_a=Linear(matrix(Q_A)),
        q_norm=RMSNorm(ONES[:QUERY_RANK], 1e-6),
        q_b=Linear(matrix(Q_B)),
        kv_a=Linear(matrix(KV_A)),
        kv_norm=RMSNorm(ONES[:RANK], 1e-6),
        key_up=matrix(keys.reshape(H * NOPE, RANK)),
        value_up=HeadwiseLinear(matrix(values.reshape(H * VALUE, RANK)), H),
        absorb=HeadwiseLinear(matrix(keys.transpose(0, 2, 1).reshape(H * RANK, NOPE)), H),
        o=Linear(matrix(OUT)),
        rope=InterleavedRope(ROPE),
        scale=0.3,
    )


def sparse() -> SparseLatentAttention:
    indexer = Indexer(
        q=Linear(matrix(INDEX_Q)),
        k=Linear(matrix(INDEX_K)),
        k_norm=LayerNorm(ONES[:INDEX_SIZE], 0.5 * ONES[:INDEX_SIZE], 1e-6),
        weights=Linear(matrix(INDEX_W)),
        rope=InterleavedRope(ROPE),
        heads=INDEX_HEADS,
        size=INDEX_SIZE,
        top=TOP,
    )
    return SparseLatentAttention(latent(), indexer)


def turned(rows: np.ndarray, first: int) -> np.ndarray:
    """Rows [T, H, d] with the dimensions from `first` on rotated."""
    tail = reference.rotate_interleaved(rows[:, :, first : first + ROTATED], 0, ROPE.inv_freq)
    return np.concatenate([rows[:, :, :first], tail, rows[:, :, first + ROTATED :]], axis=2)


def expected(x: np.ndarray, top: int | None = None) -> np.ndarray:
    tokens = len(x)
    low = reference.rms_norm(x @ Q_A.T, ONES[:QUERY_RANK], 1e-6)
    query = turned((low @ Q_B.T).reshape(tokens, H, -1), NOPE)
    both = x @ KV_A.T
    made = (reference.rms_norm(both[:, :RANK], ONES[:RANK], 1e-6) @ KV_B.T).reshape(tokens, H, NOPE + VALUE)
    rotated = np.repeat(turned(both[:, None, RANK:], 0), H, axis=1)
    keys, values = np.concatenate([made[:, :, :NOPE], rotated], axis=2), made[:, :, NOPE:]
    index_query = turned((low @ INDEX_Q.T).reshape(tokens, INDEX_HEADS, INDEX_SIZE), 0)
    index_keys = reference.layer_norm(x @ INDEX_K.T, ONES[:INDEX_SIZE], 0.5 * ONES[:INDEX_SIZE], 1e-6)
    scores = reference.index_scores(index_query, x @ INDEX_W.T, turned(index_keys[:, None], 0)[:, 0])
    out = np.empty((tokens, H, VALUE))
    for t in range(tokens):
        seen = np.arange(t + 1) if top is None else reference.top_positions(scores[t, : t + 1], top)
        for h in range(H):
            weight = reference.softmax(0.3 * keys[seen, h] @ query[t, h])
            out[t, h] = weight @ values[seen, h]
    return out.reshape(tokens, -1) @ OUT.T


INPUT = np.random.default_rng(5).standard_normal((300, D)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 7, 100, 300])
def test_latent_attention_in_either_form(step: int) -> None:
    layer = latent()
    cache = layer.new_cache(300, F32)
    found = [layer(Activations(INPUT[at : at + step]), cache) for at in range(0, 300, step)]
    np.testing.assert_allclose(np.concatenate(found), expected(INPUT), atol=1e-5)


@pytest.mark.parametrize("step", [1, 13, 300])
def test_sparse_attention_reads_the_best_positions(step: int) -> None:
    layer = sparse()
    cache = layer.new_cache(300, F32)
    found = [layer(Activations(INPUT[at : at + step]), cache) for at in range(0, 300, step)]
    np.testing.assert_allclose(np.concatenate(found), expected(INPUT, TOP), atol=1e-5)


def test_both_forms_are_used_and_heads_are_expanded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    right = LatentAttention._attend_expanded
    monkeypatch.setattr(LatentAttention, "_attend_expanded", lambda *a: used.append(len(a[1])) or right(*a))
    monkeypatch.setattr(latent_attention, "_EXPANDED_BYTES", 300 * 8 * 2 * 72)
    layer = latent()
    cache = layer.new_cache(300, F32)
    found = [
        layer(Activations(INPUT[:290]), cache),
        *(layer(Activations(INPUT[t : t + 1]), cache) for t in range(290, 300)),
    ]
    assert used == [290]
    np.testing.assert_allclose(np.concatenate(found), expected(INPUT), atol=1e-5)


def test_a_token_takes_what_the_formula_says() -> None:
    assert latent().new_cache(512, np.dtype(np.float16)).token_bytes == 2 * (RANK + ROTATED)
    assert sparse().new_cache(512, np.dtype(np.float16)).token_bytes == 2 * (RANK + ROTATED + INDEX_SIZE)
