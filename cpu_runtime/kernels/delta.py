"""Gated DeltaNet: a causal convolution, a matrix memory a head, and the gates and norm around them.

Yang, Kautz and Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule" (2024).
Every state goes in as it was after the previous token and comes out as it is after the last one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cpu_runtime.kernels.cpu import LANES
from cpu_runtime.kernels.exponential import sigmoid, silu
from cpu_runtime.kernels.norm import inverse_rms
from cpu_runtime.kernels.stack import arrays_on_stack
from cpu_runtime.kernels.vectors import (
    fma,
    load_f32,
    mul,
    splat1,
    splat_f32,
    store_f32,
    sum_of,
)
from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, kernel, parallel_kernel, prange

_CHANNELS, _STRETCH = 1024, 32  # channels and tokens of the convolution that a thread takes at once
_COLUMNS = 4 * LANES  # of a memory that a thread takes at once: 16 KB of 128 rows, half of the first cache
_L2_EPS = np.float32(1e-6)  # added to the sum of squares before the root
_ZERO, _ONE = np.float32(0), np.float32(1)


class _Columns(NamedTuple):
    """What `_recur` needs of the columns it works on, [_COLUMNS] f32 each."""

    error: np.ndarray
    read: np.ndarray
    recalled: np.ndarray


_columns = arrays_on_stack(_Columns, *[(_COLUMNS, np.float32)] * 3)


@parallel_kernel
def causal_conv_silu(x, weight, state, out):
    """out[t] = silu(sum_j weight[j] * x[t - taps + 1 + j]), each channel alone; out must not be x.

    Shapes: x, out [T, channels] f32 · weight [taps, channels] f32, the last tap for the present token
            state [taps - 1, channels] f32, the last inputs before x, oldest first; replaced
    """
    tokens, channels = x.shape
    taps = weight.shape[0]
    blocks = (channels + _CHANNELS - 1) // _CHANNELS
    stretches = (tokens + _STRETCH - 1) // _STRETCH
    for item in prange(stretches * blocks):
        first, start = item % blocks * _CHANNELS, item // blocks * _STRETCH
        count = min(_CHANNELS, channels - first)
        for t in range(start, min(start + _STRETCH, tokens)):
            total = out[t, first : first + count]
            total[:] = _ZERO
            for j in range(taps):
                _add_product(weight[j, first : first + count], _row(x, state, t - taps + 1 + j)[first:], total)
            _silu(total)
    for j in range(taps - 1):  # which takes what stands further on
        state[j] = _row(x, state, tokens - taps + 1 + j)


@inner
def _row(x, state, t):
    """The inputs of token t of x; those before it are the rows of the state."""
    return x[t] if t >= 0 else state[state.shape[0] + t]


@inner
def _add_product(x, y, out):
    for i in range(out.size):
        out[i] += x[i] * y[i]


@inner
def _silu(x):
    for i in range(x.size):
        x[i] = silu(x[i])


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
    workspace: Workspace = NEW,
) -> None:
    """Decay the memory, correct what it answers to k towards v, and read it with q, token by token.

        S = exp(decay) S;   S += outer(k, beta (v - k S));   out = q S

    with q and k scaled to unit length and q also by dk**-0.5. Value head h uses key head h // (Hv / Hk).
    Shapes: q, k [T, Hk, dk] f32 · v, out [T, Hv, dv] f32 · decay, beta [T, Hv] f32 · state S [Hv, dk, dv] f32, replaced

    The form that takes C tokens at once would do 3 dk dv + 2 C d products a token and head where this does 4 dk dv: no
    gain worth that its bits depend on where a prompt is cut.
    """
    tokens, key_heads, dk = q.shape
    heads, dv = v.shape[1:]
    # Head by head, so that a head's tokens follow one another in memory.
    empty = workspace.empty
    unit_q, unit_k = empty((key_heads, tokens, dk)), empty((key_heads, tokens, dk))
    values, gates = empty((heads, tokens, dv)), empty((heads, tokens, 2))
    _prepare(q, k, v, decay, beta, unit_q, unit_k, values, gates)
    _gated_delta(unit_q, unit_k, values, gates, state, out)


@parallel_kernel
def _prepare(q, k, v, decay, beta, unit_q, unit_k, values, gates):
    """The inputs as the recurrence takes them; gates are exp(decay) and beta."""
    tokens, key_heads, dk = q.shape
    heads, dv = v.shape[1:]
    factor = np.float32(1 / math.sqrt(dk))
    for t in prange(tokens):
        for h in range(key_heads):
            _to_unit_length(q[t, h], factor, unit_q[h, t])
            _to_unit_length(k[t, h], _ONE, unit_k[h, t])
        for h in range(heads):
            gates[h, t, 0] = np.float32(math.exp(np.float64(decay[t, h])))
            gates[h, t, 1] = beta[t, h]
            for i in range(dv):
                values[h, t, i] = v[t, h, i]


@inner
def _to_unit_length(x, factor, out):
    """out = factor * x / |x|, the squares added in one order whatever x's layout."""
    for i in range(x.size):
        out[i] = x[i]
    total, rest, whole = splat_f32(_ZERO, LANES), splat_f32(_ZERO, 1), x.size // LANES * LANES
    for i in range(0, whole, LANES):
        v = load_f32(out, i, LANES)
        total = fma(v, v, total)
    for i in range(whole, x.size):
        v = load_f32(out, i, 1)
        rest = fma(v, v, rest)
    scale = factor / np.sqrt(sum_of(total) + sum_of(rest) + _L2_EPS)
    for i in range(x.size):
        out[i] *= scale


@parallel_kernel
def _gated_delta(q, k, values, gates, state, out):
    """The columns of a memory don't meet: a thread takes few enough for its first cache through all tokens."""
    key_heads, tokens, dk = q.shape
    heads, _, dv = values.shape
    blocks = (dv + _COLUMNS - 1) // _COLUMNS
    for item in prange(heads * blocks):
        h, first = item // blocks, item % blocks * _COLUMNS
        kept, at, count = h // (heads // key_heads) * tokens * dk, h * dk * dv + first, min(_COLUMNS, dv - first)
        if tokens == 1 and count == _COLUMNS:  # the memory is seen but twice: where it is
            _recur(q, k, kept, values[h], gates[h], first, count, state, at, dk, dv, out[:, h])
        else:
            memory = np.zeros((dk, _COLUMNS), np.float32)
            for i in range(dk):
                memory[i, :count] = state[h, i, first : first + count]
            _recur(q, k, kept, values[h], gates[h], first, count, memory, 0, dk, _COLUMNS, out[:, h])
            for i in range(dk):
                state[h, i, first : first + count] = memory[i, :count]


@inner
def _recur(q, k, at, values, gates, first, count, memory, start, dk, stride, out):
    """Columns `first` .. of a head through all tokens: its rows of q and k begin at `at`, those of S at `start`."""
    error, read, recalled = _columns()
    _recall(memory, start, stride, dk, k, at, recalled)
    tokens = values.shape[0]
    for t in range(tokens):
        keep, beta = gates[t, 0], gates[t, 1]
        _correct(values, t * values.shape[1] + first, count, keep, beta, recalled, error)
        following = at + min(t + 1, tokens - 1) * dk
        _advance(memory, start, stride, dk, keep, q, k, at + t * dk, error, following, read, recalled)
        for j in range(count):
            out[t, first + j] = read[j]


@inner
def _correct(values, at, count, keep, beta, recalled, error):
    """error = beta (values - keep recalled); in vectors, or LLVM would round it differently for a token alone."""
    whole = count // LANES * LANES
    for j in range(0, whole, LANES):
        short = fma(splat_f32(-keep, LANES), load_f32(recalled, j, LANES), load_f32(values, at + j, LANES))
        store_f32(error, j, mul(splat_f32(beta, LANES), short))
    for j in range(whole, count):
        short = fma(splat_f32(-keep, 1), load_f32(recalled, j, 1), load_f32(values, at + j, 1))
        store_f32(error, j, mul(splat_f32(beta, 1), short))


@inner
def _recall(memory, start, stride, dk, k, at, recalled):
    """recalled = k S."""
    a0 = a1 = a2 = a3 = splat_f32(_ZERO, LANES)
    for i in range(dk):
        x, s = splat1(k, at + i, LANES), start + i * stride
        a0 = fma(x, load_f32(memory, s, LANES), a0)
        a1 = fma(x, load_f32(memory, s + LANES, LANES), a1)
        a2 = fma(x, load_f32(memory, s + 2 * LANES, LANES), a2)
        a3 = fma(x, load_f32(memory, s + 3 * LANES, LANES), a3)
    _store4(recalled, a0, a1, a2, a3)


@inner
def _advance(memory, start, stride, dk, keep, q, k, at, error, following, read, recalled):
    """S = keep S + outer(k, error); read = q S; recalled = (the following token's k) S; all in one pass over S."""
    keeps = splat_f32(keep, LANES)
    e0, e1 = load_f32(error, 0, LANES), load_f32(error, LANES, LANES)
    e2, e3 = load_f32(error, 2 * LANES, LANES), load_f32(error, 3 * LANES, LANES)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = splat_f32(_ZERO, LANES)
    for i in range(dk):
        x, y = splat1(k, at + i, LANES), splat1(q, at + i, LANES)
        z, s = splat1(k, following + i, LANES), start + i * stride
        m = fma(x, e0, mul(keeps, load_f32(memory, s, LANES)))
        store_f32(memory, s, m)
        a0, b0 = fma(y, m, a0), fma(z, m, b0)
        m = fma(x, e1, mul(keeps, load_f32(memory, s + LANES, LANES)))
        store_f32(memory, s + LANES, m)
        a1, b1 = fma(y, m, a1), fma(z, m, b1)
        m = fma(x, e2, mul(keeps, load_f32(memory, s + 2 * LANES, LANES)))
        store_f32(memory, s + 2 * LANES, m)
        a2, b2 = fma(y, m, a2), fma(z, m, b2)
        m = fma(x, e3, mul(keeps, load_f32(memory, s + 3 * LANES, LANES)))
        store_f32(memory, s + 3 * LANES, m)
        a3, b3 = fma(y, m, a3), fma(z, m, b3)
    _store4(read, a0, a1, a2, a3)
    _store4(recalled, b0, b1, b2, b3)


@inner
def _store4(out, first, second, third, fourth):
    store_f32(out, 0, first)
    store_f32(out, LANES, second)
    store_f32(out, 2 * LANES, third)
    store_f32(out, 3 * LANES, fourth)


@parallel_kernel
def gated_norm(x, z, weight, eps, out):
    """out = weight * x / rms(x) * silu(z), a head at a time; into another array than x it is several times faster.

    Shapes: x, z, out [T, H, d] f32 · weight [d] f32
    """
    tokens, heads, _ = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        _gated_norm_row(x[t, h], z[t, h], weight, eps, out[t, h])


@inner
def _gated_norm_row(x, z, weight, eps, out):
    scale = inverse_rms(x, eps)
    for i in range(x.size):
        out[i] = x[i] * scale * weight[i] * silu(z[i])


@parallel_kernel
def sigmoid_gate(x, gates, out):
    """out = x * sigmoid(gate); into another array than x it is several times faster.

    Shapes: x, out [T, H, d] f32 · gates [T, H, at least d] f32, whose last d numbers are a head's gate
    """
    tokens, heads, size = x.shape
    for row in prange(tokens * heads):
        t, h = row // heads, row % heads
        _sigmoid_gate_row(x[t, h], gates[t, h, gates.shape[2] - size :], out[t, h])


@inner
def _sigmoid_gate_row(x, gate, out):
    for i in range(x.size):
        out[i] = x[i] * sigmoid(gate[i])
