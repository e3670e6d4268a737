"""Gated DeltaNet: a causal convolution, a matrix memory a head, and the gates and norm around them.

Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024).
Every state goes in as it was after the previous token and comes out as it is after the last one.
"""

from __future__ import annotations

import math

import numpy as np

from cpu_runtime.kernels.exponential import sigmoid, silu
from cpu_runtime.kernels.norm import inverse_rms
from quant.jit import kernel, parallel_kernel, prange

_CHANNELS = 512  # channels of the convolution a thread takes at once
_COLUMNS = 64  # columns of the memory a thread takes at once: 32 KB with 128 rows, which stay in its L1 or L2 cache
_L2_EPS = np.float32(1e-6)  # added to the sum of squares before the root
_ZERO = np.float32(0)


@parallel_kernel
def causal_conv_silu(x, weight, state, out):
    """out[t] = silu(sum_j weight[:, j] * x[t - taps + 1 + j]), each channel alone; out must not be x.

    Shapes: x, out [T, channels] f32 · weight [channels, taps] f32, the last tap for the present token
            state [taps - 1, channels] f32, the last inputs before x, oldest first; replaced
    """
    tokens, channels = x.shape
    taps = weight.shape[1]
    for block in prange((channels + _CHANNELS - 1) // _CHANNELS):
        first = block * _CHANNELS
        last = min(first + _CHANNELS, channels)
        for t in range(tokens):
            for c in range(first, last):
                out[t, c] = weight[c, taps - 1] * x[t, c]
            for j in range(taps - 1):
                source = t - taps + 1 + j
                row = x[source] if source >= 0 else state[source + taps - 1]
                for c in range(first, last):
                    out[t, c] += weight[c, j] * row[c]
            for c in range(first, last):
                out[t, c] = silu(out[t, c])
        for j in range(taps - 1):
            source = tokens - taps + 1 + j
            row = x[source] if source >= 0 else state[source + taps - 1]
            for c in range(first, last):
                state[j, c] = row[c]


@kernel
def delta_gates(a, b, a_log, dt_bias, decay, beta):
    """decay = -exp(a_log) * softplus(a + dt_bias), the logarithm of what a memory keeps; beta = sigmoid(b).

    Shapes: a, b, decay, beta [T, Hv] f32 · a_log, dt_bias [Hv] f32
    """
    for t in range(a.shape[0]):
        for h in range(a.shape[1]):
            x = np.float64(a[t, h] + dt_bias[h])
            # log(1 + e**x) without its overflow
            softplus = max(x, 0.0) + math.log1p(math.exp(-abs(x)))
            decay[t, h] = -math.exp(np.float64(a_log[h])) * softplus
            beta[t, h] = sigmoid(b[t, h])


def gated_delta(q, k, v, decay, beta, state, out):
    """Decay the memory, correct what it answers to k towards v, and read it with q, token by token.

        S = exp(decay) S;   S += outer(k, beta (v - k S));   out = q S

    with q and k scaled to unit length and q also by dk**-0.5. Value head h uses key head h // (Hv / Hk).
    Shapes: q, k [T, Hk, dk] f32 · v, out [T, Hv, dv] f32 · decay, beta [T, Hv] f32 · state S [Hv, dk, dv] f32, replaced
    """
    q, k, v = np.ascontiguousarray(q), np.ascontiguousarray(k), np.ascontiguousarray(v)  # one layout, one loop
    unit_q, unit_k = np.empty_like(q), np.empty_like(k)
    _to_unit_length(q, np.float32(q.shape[2] ** -0.5), unit_q)
    _to_unit_length(k, np.float32(1), unit_k)
    _gated_delta(unit_q, unit_k, v, decay, beta, state, out)


@kernel
def _to_unit_length(x, factor, out):
    tokens, heads, size = x.shape
    for t in range(tokens):
        for h in range(heads):
            total = _ZERO
            for i in range(size):
                total += x[t, h, i] * x[t, h, i]
            scale = factor / np.sqrt(total + _L2_EPS)
            for i in range(size):
                out[t, h, i] = x[t, h, i] * scale


@parallel_kernel
def _gated_delta(q, k, v, decay, beta, state, out):
    tokens, key_heads, _ = q.shape
    _, value_heads, dv = v.shape
    blocks = (dv + _COLUMNS - 1) // _COLUMNS
    for item in prange(value_heads * blocks):
        # The columns of S never meet, so that blocks of them run on their own through all the tokens.
        h, first = item // blocks, item % blocks * _COLUMNS
        last = min(first + _COLUMNS, dv)
        key_head = h // (value_heads // key_heads)
        answer = np.empty(_COLUMNS, np.float32)
        for t in range(tokens):
            keep = np.float32(math.exp(np.float64(decay[t, h])))
            _step(
                q[t, key_head], k[t, key_head], v[t, h, first:last], keep, beta[t, h],
                state[h, :, first:last], answer[: last - first], out[t, h, first:last],
            )


@kernel
def _step(q, k, v, keep, beta, state, answer, out):
    """One token. Both products read the state once, before the update: q (keep S + k d) = keep (q S) + (q k) d.

    Shapes: q, k [dk] f32 · v, answer, out [columns] f32 · state [dk, columns] f32
    """
    rows, columns = state.shape
    answer[:] = _ZERO
    out[:] = _ZERO
    q_k = _ZERO
    whole = rows - rows % 4
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = state[i], state[i + 1], state[i + 2], state[i + 3]
        k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
        q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
        q_k += (q0 * k0 + q1 * k1) + (q2 * k2 + q3 * k3)
        for j in range(columns):
            answer[j] += (k0 * s0[j] + k1 * s1[j]) + (k2 * s2[j] + k3 * s3[j])
            out[j] += (q0 * s0[j] + q1 * s1[j]) + (q2 * s2[j] + q3 * s3[j])
    for i in range(whole, rows):
        q_k += q[i] * k[i]
        for j in range(columns):
            answer[j] += k[i] * state[i, j]
            out[j] += q[i] * state[i, j]
    for j in range(columns):
        answer[j] = beta * (v[j] - keep * answer[j])
        out[j] = keep * out[j] + q_k * answer[j]
    for i in range(rows):
        for j in range(columns):
            state[i, j] = keep * state[i, j] + k[i] * answer[j]


@parallel_kernel
def gated_norm(x, z, weight, eps, out):
    """out = weight * x / rms(x) * silu(z), a head at a time; out may be x.

    Shapes: x, z, out [T, H, d] f32 · weight [d] f32
    """
    tokens, heads, size = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        scale = inverse_rms(x[t, h], eps)
        for i in range(size):
            out[t, h, i] = x[t, h, i] * scale * weight[i] * silu(z[t, h, i])


@parallel_kernel
def sigmoid_gate(x, gate, out):
    """out = x * sigmoid(gate); out may be x.

    Shapes: x, gate, out [T, H, d] f32; the gate may be a strided view
    """
    tokens, heads, size = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        for i in range(size):
            out[t, h, i] = x[t, h, i] * sigmoid(gate[t, h, i])
