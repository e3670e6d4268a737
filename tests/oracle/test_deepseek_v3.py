"""Every mistake that is easily made in DeepSeek-V3's stack must move some logit well beyond the tolerance."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cpu_runtime.layers import moe, rope
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.latent_attention import LatentAttention
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE, SigmoidRouter
from cpu_runtime.layers.norm import RMSNorm
from cpu_runtime.layers.rope import HalfSplitRope, InterleavedRope
from tests import reference
from tests.conftest import Quantized
from tests.recordings import Mistake, change, mistake_error, mixers


def routers(decoder: Decoder) -> list[SigmoidRouter]:
    return [block.feed_forward.router for block in decoder.blocks if isinstance(block.feed_forward, MoE)]  # type: ignore[misc]


def half_split_rope(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, LatentAttention):
        change(mixer, rope=HalfSplitRope(mixer.rope.frequencies))


def softmax_scale_without_yarn(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, LatentAttention):
        change(mixer, scale=mixer.scale / mixer.rope.frequencies.softmax)


def softmax_scale_with_yarn_once(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, LatentAttention):
        change(mixer, scale=mixer.scale / mixer.rope.frequencies.softmax**0.5)


def frequencies_without_yarn(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, LatentAttention):
        own = mixer.rope.frequencies
        fast = rope.plain(1e4, 2 * own.inv_freq.size).inv_freq
        change(mixer, rope=InterleavedRope(replace(own, inv_freq=fast)))


def rotated_dimensions_first(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def query(self: LatentAttention, low: Any, start: int) -> np.ndarray:
        made, rotated = self.q_b(low).reshape(low.x.shape[0], self.heads, -1), self.row_size - self.rank
        turned = np.ascontiguousarray(np.concatenate([made[:, :, rotated:], made[:, :, :rotated]], 2))
        self.rope(turned[:, :, self.key_size :], start)
        return turned

    patch.setattr(LatentAttention, "query", query)


def norm_over_latent_and_key(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def latents(self: LatentAttention, x: Any, start: int) -> np.ndarray:
        made = self.kv_a(x)
        weight = np.ones(self.row_size, np.float32)
        weight[: self.rank] = self.kv_norm.weight
        rows = RMSNorm(weight, 1e-6).in_place(made)[:, None]
        self.rope(rows[:, :, self.rank :], start)
        return rows

    patch.setattr(LatentAttention, "latents", latents)


def latent_not_normed(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, LatentAttention):
        change(mixer, kv_norm=SimpleNamespace(in_place=lambda x: x))


def query_not_normed(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LatentAttention, "low_query", lambda self, x: Activations(self.q_a(x)))


def biased_scores_as_weights(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(
        logits: Any, bias: Any, groups: int, kept: int, k: int, eps: Any, factor: Any, ids: Any, weights: Any, _: Any
    ) -> None:
        ids[:] = reference.sigmoid_top_k(logits, bias, groups, kept, k, eps, factor)[0]
        chosen = np.take_along_axis(reference.sigmoid(logits) + bias, ids.astype(np.int64), 1)
        weights[:] = factor * chosen / chosen.sum(1, keepdims=True)

    patch.setattr(moe, "sigmoid_top_k", kernel)


def no_selection_bias(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for router in routers(decoder):
        change(router, bias=np.zeros_like(router.bias))


def group_worth_its_largest(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(
        logits: Any, bias: Any, groups: int, kept: int, k: int, eps: Any, factor: Any, ids: Any, weights: Any, _: Any
    ) -> None:
        choice = (reference.sigmoid(logits) + bias).reshape(len(logits), groups, -1)
        worth = choice.max(2)
        least = np.sort(worth, 1)[:, -kept][:, None]
        masked = np.where((worth >= least)[:, :, None], choice, -np.inf).reshape(logits.shape)
        ids[:] = np.argsort(-masked, 1, kind="stable")[:, :k]
        chosen = np.take_along_axis(reference.sigmoid(logits), ids.astype(np.int64), 1)
        weights[:] = factor * chosen / chosen.sum(1, keepdims=True)

    patch.setattr(moe, "sigmoid_top_k", kernel)


def no_group_limit(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for router in routers(decoder):
        change(router, kept=router.groups)


def no_scaling_factor(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for router in routers(decoder):
        change(router, factor=1.0)


def no_shared_expert(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for block in decoder.blocks:
        if isinstance(block.feed_forward, MoE):
            change(block.feed_forward, shared=None)


MISTAKES: list[Mistake] = [
    half_split_rope,
    softmax_scale_without_yarn,
    softmax_scale_with_yarn_once,
    frequencies_without_yarn,
    rotated_dimensions_first,
    norm_over_latent_and_key,
    latent_not_normed,
    query_not_normed,
    biased_scores_as_weights,
    no_selection_bias,
    group_worth_its_largest,
    no_group_limit,
    no_scaling_factor,
    no_shared_expert,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(quantized: Quantized, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistake_error(quantized, "deepseek_v3_fp8", mistake, monkeypatch) > 0.01


def test_a_magnitude_that_is_left_out_is_seen(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mscale differs from mscale_all_dim, what was rotated is multiplied."""

    def no_magnitude(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
        for mixer in mixers(decoder, LatentAttention):
            change(mixer, rope=InterleavedRope(replace(mixer.rope.frequencies, magnitude=1.0)))

    assert mistake_error(quantized, "deepseek_v3_bf16", no_magnitude, monkeypatch) > 0.003
