"""Every mistake that is easily made in MiniMax-M2 must move some logit well beyond the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cpu_runtime.layers import rope
from cpu_runtime.layers.decoder import Decoder
from cpu_runtime.layers.linear import Activations
from cpu_runtime.layers.moe import MoE
from cpu_runtime.layers.norm import NO_NORM, RMSNorm
from cpu_runtime.layers.wide_norm_attention import WideNormAttention
from tests.conftest import Quantized
from tests.recordings import Mistake, change, mistake_error, mixers


def norm_a_head_at_a_time(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    def by_head(x: np.ndarray, norm: RMSNorm, size: int) -> np.ndarray:
        heads = x.reshape(len(x), -1, size)
        normed = heads / np.sqrt((heads**2).mean(2, keepdims=True) + norm.eps)
        return np.ascontiguousarray(normed.reshape(x.shape) * norm.weight)

    def projected(mixer: WideNormAttention) -> Callable[[Activations], list[np.ndarray]]:
        norms, right = (mixer.q_norm, mixer.k_norm), mixer.projections

        def wrong(x: Activations) -> list[np.ndarray]:
            *pair, value = right(x)
            return [by_head(y, norm, mixer.head_size) for y, norm in zip(pair, norms, strict=True)] + [value]

        return wrong

    for mixer in mixers(decoder, WideNormAttention):
        change(mixer, projections=projected(mixer), q_norm=NO_NORM, k_norm=NO_NORM)


def rope_on_the_whole_head(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, WideNormAttention):
        change(mixer, rope=rope.HalfSplitRope(rope.plain(5e6, mixer.head_size)))


def interleaved_rope(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for mixer in mixers(decoder, WideNormAttention):
        change(mixer, rope=rope.InterleavedRope(mixer.rope.frequencies))


def no_selection_bias(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for block in decoder.blocks:
        assert isinstance(block.feed_forward, MoE)
        router: Any = block.feed_forward.router
        change(router, bias=np.zeros_like(router.bias))


def gate_and_up_exchanged(decoder: Decoder, patch: pytest.MonkeyPatch) -> None:
    for block in decoder.blocks:
        store: Any = block.feed_forward.store  # type: ignore[attr-defined]
        parts = store.records(block.feed_forward.layer).parts  # type: ignore[attr-defined]
        parts["gate"], parts["up"] = parts["up"], parts["gate"]


MISTAKES: list[Mistake] = [
    norm_a_head_at_a_time,
    rope_on_the_whole_head,
    interleaved_rope,
    no_selection_bias,
    gate_and_up_exchanged,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_seen(quantized: Quantized, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mistake_error(quantized, "minimax_m2_fp8", mistake, monkeypatch) > 0.01
