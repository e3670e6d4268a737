"""The slow, obvious NumPy twin of each kernel in float64, with the kernel's name and arguments but its result returned.

State arguments are replaced in place, as the kernels do.
"""

from __future__ import annotations

import numpy as np


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


# --- norm, rope ---


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return weight * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    centred = x - x.mean(axis=-1, keepdims=True)
    return weight * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) + bias


def rotate(heads: np.ndarray, start: int, inv_freq: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Turn the pairs (first[i], second[i]) of dimensions by (start + t) * inv_freq[i], the product a float32."""
    out = heads.astype(np.float64)
    positions = np.arange(start, start + heads.shape[0], dtype=np.float32)
    angles = np.outer(positions, inv_freq.astype(np.float32)).astype(np.float64)[:, None]
    p, q = heads[:, :, first], heads[:, :, second]
    out[:, :, first] = p * np.cos(angles) - q * np.sin(angles)
    out[:, :, second] = q * np.cos(angles) + p * np.sin(angles)
    return out


def rotate_half_split(heads: np.ndarray, start: int, inv_freq: np.ndarray) -> np.ndarray:
    i = np.arange(inv_freq.size)
    return rotate(heads, start, inv_freq, i, i + inv_freq.size)


def rotate_interleaved(heads: np.ndarray, start: int, inv_freq: np.ndarray) -> np.ndarray:
    i = np.arange(inv_freq.size)
    return rotate(heads, start, inv_freq, 2 * i, 2 * i + 1)


# --- attention ---


def attend(q: np.ndarray, keys: np.ndarray, values: np.ndarray, start: int, scale: float) -> np.ndarray:
    """Keys and values head by head, [K, positions, d], not in pages."""
    out = np.empty((*q.shape[:2], values.shape[2]))
    share = q.shape[1] // keys.shape[0]
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            seen = slice(0, start + t + 1)
            k = keys[h // share, seen].astype(np.float64)
            v = values[h // share, seen].astype(np.float64)
            scores = k @ q[t, h].astype(np.float64) * scale
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ v / weights.sum()
    return out


def index_scores(q: np.ndarray, weights: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Keys [positions, d], not in pages."""
    products = np.einsum("thd,sd->ths", q.astype(np.float64), keys.astype(np.float64))
    return np.einsum("th,ths->ts", weights.astype(np.float64), np.maximum(products, 0))


def top_positions(scores: np.ndarray, k: int) -> np.ndarray:
    return np.sort(np.argsort(-scores, kind="stable")[:k])


# --- Gated DeltaNet ---


def causal_conv_silu(x: np.ndarray, weight: np.ndarray, state: np.ndarray) -> np.ndarray:
    taps = weight.shape[0]
    rows = np.concatenate([state, x]).astype(np.float64)
    state[:] = rows[rows.shape[0] - (taps - 1) :]
    return silu(sum(weight[j] * rows[j : j + x.shape[0]] for j in range(taps)))


def delta_gates(a: np.ndarray, b: np.ndarray, a_log: np.ndarray, dt_bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    decay = -np.exp(a_log.astype(np.float64)) * softplus(a.astype(np.float64) + dt_bias)
    return decay, sigmoid(b.astype(np.float64))


def to_unit_length(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def gated_delta(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, decay: np.ndarray, beta: np.ndarray, state: np.ndarray
) -> np.ndarray:
    q = to_unit_length(q.astype(np.float64)) * q.shape[2] ** -0.5
    k = to_unit_length(k.astype(np.float64))
    memory = state.astype(np.float64)
    out = np.empty(v.shape)
    for t in range(v.shape[0]):
        for h in range(v.shape[1]):
            key_head = h // (v.shape[1] // k.shape[1])
            memory[h] *= np.exp(decay[t, h])
            wrong_by = v[t, h] - k[t, key_head] @ memory[h]
            memory[h] += np.outer(k[t, key_head], beta[t, h] * wrong_by)
            out[t, h] = q[t, key_head] @ memory[h]
    state[:] = memory
    return out


def gated_norm(x: np.ndarray, z: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return rms_norm(x, weight, eps) * silu(z.astype(np.float64))


def sigmoid_gate(x: np.ndarray, gate: np.ndarray) -> np.ndarray:
    return x * sigmoid(gate.astype(np.float64))


# --- router ---


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def softmax_top_k(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
    weights = np.take_along_axis(softmax(logits), ids, axis=-1)
    return ids, weights / weights.sum(axis=-1, keepdims=True)


def sigmoid_top_k(
    logits: np.ndarray, bias: np.ndarray, groups: int, kept: int, k: int, eps: float, factor: float
) -> tuple[np.ndarray, np.ndarray]:
    scores = sigmoid(logits.astype(np.float64))
    choice = (scores + bias).reshape(len(logits), groups, -1)
    worth = np.sort(choice, axis=2)[:, :, -2:].sum(2)
    best = np.argsort(-worth, axis=1, kind="stable")[:, :kept]
    open_groups = (np.arange(groups)[None, :, None] == best[:, None]).any(2)
    choice = np.where(open_groups[:, :, None], choice, -np.inf).reshape(logits.shape)
    ids = np.argsort(-choice, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(scores, ids, axis=1)
    return ids, weights * factor / (weights.sum(1, keepdims=True) + eps)


# --- matrices ---


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(q, scale, sums): int8 with a scale for each 32 inputs; of 16, -32 times the sums of the pairs in turns."""
    groups = x.reshape(x.shape[0], -1, 32).astype(np.float64)
    scale = np.abs(groups).max(2) / 127
    q = np.rint(np.divide(groups, scale[:, :, None], out=np.zeros_like(groups), where=scale[:, :, None] > 0))
    q = q.reshape(x.shape).astype(np.int8)
    return q, scale, -32 * q.reshape(x.shape[0], -1, 4, 2, 2).sum((2, 4), dtype=np.int16)


def dequantized(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What quantized activations stand for, float64."""
    return q.astype(np.float64) * np.repeat(scale.astype(np.float64), 32, axis=1)


def matmul(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x @ weights.T; weights [R, C], x [T, at least C] with nothing beyond C."""
    return x[:, : weights.shape[1]].astype(np.float64) @ weights.astype(np.float64).T


def int8_products(w: np.ndarray, x: np.ndarray, rounds: int) -> np.ndarray:
    """w [D/4, R, 4], x [T, D] -> [T, R]: `rounds` times every row times every token."""
    rows = w.transpose(1, 0, 2).reshape(w.shape[1], -1).astype(np.int64)
    return (rounds * (x.astype(np.int64) @ rows.T)).astype(np.float32)


def feed_forward(gate: np.ndarray, up: np.ndarray, down: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One network's matrices and one token's activations."""
    x = x.astype(np.float64)
    hidden = silu(gate @ x) * (up @ x)
    return down @ np.pad(hidden, (0, down.shape[1] - hidden.size))


def f32_products(start: np.ndarray, x: np.ndarray, y: np.ndarray, rounds: int) -> np.ndarray:
    """start [sums, lanes], x and y [lanes]."""
    return start + rounds * x.astype(np.float64) * y


# --- likelihood ---


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def surprise(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -log_softmax(logits)[np.arange(targets.size), targets]


def divergence(base: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    p, q, at = log_softmax(base), log_softmax(logits), np.arange(targets.size)
    with np.errstate(invalid="ignore"):  # 0 log 0
        terms = np.where(p == -np.inf, 0, np.exp(p) * (p - q))
    return np.stack((terms.sum(1), -p[at, targets], -q[at, targets], base.argmax(1) == logits.argmax(1)), axis=1)


def candidates(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, probabilities) that pass one filter after another, likeliest first, lower ids first among equals."""
    ids = np.argsort(-logits.astype(np.float64), kind="stable")[: top_k or None]
    probability = softmax(logits[ids].astype(np.float64) / temperature)
    likely = np.cumsum(probability) - probability < top_p
    ids, probability = ids[likely], probability[likely]
    enough = probability >= min_p * probability[0]
    return ids[enough], probability[enough] / probability[enough].sum()
