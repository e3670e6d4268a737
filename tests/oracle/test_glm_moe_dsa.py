"""Every mistake that is easily made in GLM-5's indexer must move some logit well beyond the tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cpu_runtime.layers import sparse_attention
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import HalfSplitRope
from cpu_runtime.layers.sparse_attention import Indexer, SparseLatentAttention
from tests.conftest import Quantized
from tests.recordings import Mistake, change, mistake_error, mixers


def indexers(decoder: Decoder) -> list[Indexer]:
    return [mixer.indexer for mixer in mixers(decoder, SparseLatentAttention)]


def dense_attention_everywhere(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        change(indexer, top=1 << 20)


def the_latest_positions(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def latest(scores: Any, k: int, out: Any) -> None:
        out[:] = np.arange(scores.size - k, scores.size)

    patch.setattr(sparse_attention, "top_positions", latest)


def half_split_index_rope(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        change(indexer, rope=HalfSplitRope(indexer.rope.frequencies))


def index_rope_on_the_last_dimensions(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        right, rotated = indexer.rope, 2 * indexer.rope.frequencies.inv_freq.size
        change(indexer, rope=lambda heads, start, _, r=right, n=rotated: r(heads[:, :, -n:], start))


def rms_norm_of_index_keys(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        change(indexer, k_norm=RMSNorm(indexer.k_norm.weight, 1e-6))


def no_bias_in_the_key_norm(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        indexer.k_norm.bias = np.zeros_like(indexer.k_norm.bias)


def scores_without_relu(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(q: Any, weights: Any, pages: Any, positions: int, out: Any, workspace: Any) -> None:
        keys = pages.reshape(-1, pages.shape[3])[:positions].astype(np.float32)
        out[:] = np.einsum("thd,th,sd->ts", q, weights, keys)

    patch.setattr(sparse_attention, "index_scores", kernel)


def head_weights_all_alike(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for indexer in indexers(decoder):
        change(indexer, weights=lambda x, h=indexer.heads: np.ones((len(x.x), h), np.float32))


MISTAKES: list[Mistake] = [
    dense_attention_everywhere,
    the_latest_positions,
    half_split_index_rope,
    index_rope_on_the_last_dimensions,
    rms_norm_of_index_keys,
    no_bias_in_the_key_norm,
    scores_without_relu,
    head_weights_all_alike,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(quantized: Quantized, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistake_error(quantized, "glm_moe_dsa_bf16", mistake, monkeypatch) > 0.01
