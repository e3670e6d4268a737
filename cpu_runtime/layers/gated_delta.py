"""Gated DeltaNet: linear attention whose memory is a matrix a head, decayed and corrected token by token.

Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cpu_runtime.caches.recurrent import RecurrentState
from cpu_runtime.kernels.delta import causal_conv_silu, delta_gates, gated_delta, gated_norm
from cpu_runtime.layers.linear import Activations, Linear, SideBySide


@dataclass(frozen=True)
class GatedDelta:
    """One Gated DeltaNet mixer: project, convolve, recur, norm, gate, project.

    Shapes: conv [taps, channels] · A_log, dt_bias [Hv] · norm [dv]; channels = 2 Hk dk + Hv dv, queries first.
    """

    qkv: Linear
    z: Linear
    a: Linear
    b: Linear
    out: Linear
    conv: np.ndarray
    A_log: np.ndarray
    dt_bias: np.ndarray
    norm: np.ndarray
    eps: float
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int

    def new_cache(self, context: int, dtype: np.dtype) -> RecurrentState:
        """The state before the first token; always float32, because errors in it accumulate."""
        taps, channels = self.conv.shape
        return RecurrentState(taps, channels, self.value_heads, self.key_size, self.value_size)

    @cached_property
    def _projections(self) -> SideBySide:
        return SideBySide(self.qkv, self.z)

    @cached_property
    def _gates(self) -> SideBySide:
        return SideBySide(self.a, self.b)

    def __call__(self, x: Activations, cache: RecurrentState) -> np.ndarray:
        """Shapes: x of T rows -> [T, D] f32; the state moves on by T tokens."""
        tokens, workspace = x.x.shape[0], x.workspace
        raw, z = self._projections(x)
        mixed = workspace.empty(raw.shape)
        causal_conv_silu(raw, self.conv, cache.conv, mixed)

        decay, beta = workspace.empty((tokens, self.value_heads)), workspace.empty((tokens, self.value_heads))
        delta_gates(*self._gates(x), self.A_log, self.dt_bias, decay, beta)

        width = self.key_heads * self.key_size
        keys_shape = tokens, self.key_heads, self.key_size
        values_shape = tokens, self.value_heads, self.value_size
        query = mixed[:, :width].reshape(keys_shape)
        key = mixed[:, width : 2 * width].reshape(keys_shape)
        value = mixed[:, 2 * width :].reshape(values_shape)
        read = workspace.empty(values_shape)
        gated_delta(query, key, value, decay, beta, cache.memory, read, workspace)
        normed = workspace.empty(values_shape)
        gated_norm(read, z.reshape(values_shape), self.norm, np.float32(self.eps), normed)
        return self.out(Activations(normed.reshape(tokens, -1), workspace))
