"""Every mistake that is easily made in Qwen3.5 must move some logit well beyond the tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cpu_runtime.layers import gated_attention, gated_delta, moe, rope
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.gated_attention import GatedAttention
from cpu_runtime.layers.gated_delta import GatedDelta
from tests import reference
from tests.conftest import Quantized
from tests.recordings import Mistake, change, mistake_error, mixers


def norm_weights_not_zero_centred(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for norm in [decoder.norm, *(n for b in decoder.blocks for n in (b.norm1, b.norm2))]:
        norm.weight = norm.weight - 1


def zero_centred_output_norm(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, GatedDelta):
        change(mixer, norm=mixer.norm + 1)


def gate_before_norm(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(x: Any, z: Any, weight: Any, eps: Any, out: Any) -> None:
        gated = x * reference.silu(z)
        out[:] = weight * gated / np.sqrt((gated**2).mean(-1, keepdims=True) + eps)

    patch.setattr(gated_delta, "gated_norm", kernel)


def sigmoid_instead_of_silu(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(x: Any, z: Any, weight: Any, eps: Any, out: Any) -> None:
        out[:] = weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * reference.sigmoid(z)

    patch.setattr(gated_delta, "gated_norm", kernel)


def queries_and_gates_as_two_blocks(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, GatedAttention):
        shape, q = (-1, 2, mixer.heads, mixer.head_size), mixer.q
        change(
            mixer, q=lambda x, q=q, s=shape: np.ascontiguousarray(q(x).reshape(s).swapaxes(1, 2)).reshape(len(x.x), -1)
        )


def no_output_gate(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gated_attention, "sigmoid_gate", lambda x, gate, out: np.copyto(out, x))


def interleaved_rope(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, GatedAttention):
        change(mixer, rope=rope.InterleavedRope(mixer.rope.frequencies))


def rope_on_the_whole_head(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, GatedAttention):
        change(mixer, rope=rope.HalfSplitRope(rope.plain(1e7, mixer.head_size)))


def key_heads_tiled(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    right = gated_delta.gated_delta

    def kernel(q: Any, k: Any, v: Any, *rest: Any) -> None:
        times = v.shape[1] // q.shape[1]
        right(np.tile(q, (1, times, 1)), np.tile(k, (1, times, 1)), v, *rest)

    patch.setattr(gated_delta, "gated_delta", kernel)


def queries_not_scaled(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    right = gated_delta.gated_delta

    def kernel(q: Any, k: Any, v: Any, decay: Any, beta: Any, state: Any, out: Any, *rest: Any) -> None:
        right(q, k, v, decay, beta, state, out, *rest)
        out *= np.float32(q.shape[2] ** 0.5)

    patch.setattr(gated_delta, "gated_delta", kernel)


def beta_left_out(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    right = gated_delta.gated_delta

    def kernel(q: Any, k: Any, v: Any, decay: Any, beta: Any, *rest: Any) -> None:
        right(q, k, v, decay, np.ones_like(beta), *rest)

    patch.setattr(gated_delta, "gated_delta", kernel)


def no_silu_after_the_convolution(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def kernel(x: Any, weight: Any, state: Any, out: Any) -> None:
        padded = np.concatenate([state, x])
        taps = weight.shape[0]
        out[:] = sum(padded[j : j + len(x)] * weight[j] for j in range(taps))
        state[:] = padded[-(taps - 1) :]

    patch.setattr(gated_delta, "causal_conv_silu", kernel)


def taps_reversed(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, GatedDelta):
        change(mixer, conv=np.ascontiguousarray(mixer.conv[::-1]))


def probabilities_not_renormalised(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    right = moe.softmax_top_k

    def kernel(logits: Any, k: Any, ids: Any, weights: Any) -> None:
        right(logits, k, ids, weights)
        probability = np.exp(logits - logits.max(1, keepdims=True))
        weights *= np.take_along_axis(probability / probability.sum(1, keepdims=True), ids, 1).sum(1, keepdims=True)

    patch.setattr(moe, "softmax_top_k", kernel)


def shared_expert_not_gated(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for block in decoder.blocks:
        change(block.feed_forward, shared=block.feed_forward.shared.mlp)  # type: ignore[attr-defined]


MISTAKES: list[Mistake] = [
    norm_weights_not_zero_centred,
    zero_centred_output_norm,
    gate_before_norm,
    sigmoid_instead_of_silu,
    queries_and_gates_as_two_blocks,
    no_output_gate,
    interleaved_rope,
    rope_on_the_whole_head,
    key_heads_tiled,
    queries_not_scaled,
    beta_left_out,
    no_silu_after_the_convolution,
    taps_reversed,
    probabilities_not_renormalised,
    shared_expert_not_gated,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(quantized: Quantized, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistake_error(quantized, "qwen3_5_fused", mistake, monkeypatch) > 0.01
