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
        count = min(_CHANNELS, channels - first)
        weights = np.empty((taps, _CHANNELS), np.float32)  # tap-major, so that channels are vector lanes
        for c in range(count):
            for j in range(taps):
                weights[j, c] = weight[first + c, j]
        total = np.empty(count, np.float32)
        for t in range(tokens):
            total[:] = _ZERO
            for j in range(taps):
                _add_product(weights[j], _row(x, state, t - taps + 1 + j)[first : first + count], total)
            _silu(total, out[t, first : first + count])
        for j in range(taps - 1):
            state[j, first : first + count] = _row(x, state, tokens - taps + 1 + j)[first : first + count]


@kernel
def _row(x, state, t):
    """The inputs of token t of x; those before it are the rows of the state."""
    return x[t] if t >= 0 else state[state.shape[0] + t]


@kernel
def _add_product(x, y, out):
    for i in range(out.size):
        out[i] += x[i] * y[i]


@kernel
def _silu(x, out):
    for i in range(out.size):
        out[i] = silu(x[i])


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


def gated_delta(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    decay: np.ndarray,
    beta: np.ndarray,
    state: np.ndarray,
    out: np.ndarray,
) -> None:
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
    for h in prange(value_heads):
        key_head = h // (value_heads // key_heads)
        read, error = np.empty(dv, np.float32), np.empty(dv, np.float32)
        for t in range(tokens):
            keep = np.float32(math.exp(np.float64(decay[t, h])))
            q_k = _products(q[t, key_head], k[t, key_head], state[h], read, error)
            for j in range(dv):
                error[j] = beta[t, h] * (v[t, h, j] - keep * error[j])
                out[t, h, j] = keep * read[j] + q_k * error[j]
            _update(state[h], keep, k[t, key_head], error)


@kernel
def _products(q, k, state, q_state, k_state):
    """q S and k S, S read once; returns q . k.

    Both read the memory before it changes, since q (keep S + outer(k, e)) = keep (q S) + (q . k) e.
    Shapes: q, k [dk] f32 · state S [dk, dv] f32 · q_state, k_state [dv] f32
    """
    rows, columns = state.shape
    whole = rows - rows % 4
    q_k = _ZERO
    q_state[:] = _ZERO
    k_state[:] = _ZERO
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = state[i], state[i + 1], state[i + 2], state[i + 3]
        q0, q1, q2, q3 = q[i], q[i + 1], q[i + 2], q[i + 3]
        k0, k1, k2, k3 = k[i], k[i + 1], k[i + 2], k[i + 3]
        q_k += (q0 * k0 + q1 * k1) + (q2 * k2 + q3 * k3)
        for j in range(columns):
            q_state[j] += (q0 * s0[j] + q1 * s1[j]) + (q2 * s2[j] + q3 * s3[j])
            k_state[j] += (k0 * s0[j] + k1 * s1[j]) + (k2 * s2[j] + k3 * s3[j])
    for i in range(whole, rows):
        q_k += q[i] * k[i]
        for j in range(columns):
            q_state[j] += q[i] * state[i, j]
            k_state[j] += k[i] * state[i, j]
    return q_k


@kernel
def _update(state, keep, k, error):
    """S = keep S + outer(k, error)."""
    for i in range(state.shape[0]):
        row, k_i = state[i], k[i]
        for j in range(row.size):
            row[j] = keep * row[j] + k_i * error[j]


@parallel_kernel
def gated_norm(x, z, weight, eps, out):
    """out = weight * x / rms(x) * silu(z), a head at a time; into another array than x it is several times faster.

    Shapes: x, z, out [T, H, d] f32 · weight [d] f32
    """
    tokens, heads, _ = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        _gated_norm_row(x[t, h], z[t, h], weight, eps, out[t, h])


@kernel
def _gated_norm_row(x, z, weight, eps, out):
    scale = inverse_rms(x, eps)
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i] * silu(z[i])


def sigmoid_gate(x: np.ndarray, gate: np.ndarray, out: np.ndarray) -> None:
    """out = x * sigmoid(gate); into another array than x it is several times faster.

    Shapes: x, gate, out [T, H, d] f32
    """
    _sigmoid_gate(x, np.ascontiguousarray(gate), out)


@parallel_kernel
def _sigmoid_gate(x, gate, out):
    tokens, heads, _ = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        _sigmoid_gate_row(x[t, h], gate[t, h], out[t, h])


@kernel
def _sigmoid_gate_row(x, gate, out):
    for i in range(x.size):
        out[i] = x[i] * sigmoid(gate[i])
