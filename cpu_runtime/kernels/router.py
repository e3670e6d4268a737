"""Which experts a token goes to, and with what weights."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.exponential import exp, sigmoid
from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, kernel

_MASKED = np.float32(-np.inf)


@kernel
def softmax_top_k(logits, k, ids, weights):
    """The k most probable experts of each token, and their probabilities rescaled to sum to 1.

    Shapes: logits [T, E] f32 · ids [T, k] i32 · weights [T, k] f32
    Most probable first, the lower index first among equals.
    """
    # softmax over all experts, then division by the sum of the chosen, is softmax over the chosen.
    for t in range(logits.shape[0]):
        _top_k(logits[t], k, ids[t])
        highest = logits[t, ids[t, 0]]
        total = np.float32(0)
        for j in range(k):
            weights[t, j] = exp(logits[t, ids[t, j]] - highest)
            total += weights[t, j]
        for j in range(k):
            weights[t, j] /= total


def sigmoid_top_k(
    logits: np.ndarray,
    bias: np.ndarray,
    groups: int,
    kept: int,
    k: int,
    eps: np.float32,
    factor: np.float32,
    ids: np.ndarray,
    weights: np.ndarray,
    workspace: Workspace = NEW,
) -> None:
    """The k experts with the largest sigmoid(logit) + bias, and their sigmoids without it, rescaled to sum to `factor`.

    Shapes: logits [T, E] f32 · bias [E] f32 · ids [T, k] i32 · weights [T, k] f32
    Only experts of the `kept` best of `groups` equal runs of experts are looked at; a run is as good as the sum of its
    two largest. `eps` is added to the sum that the weights are divided by. DeepSeek-AI, "DeepSeek-V3" (2024).
    """
    experts = logits.shape[1]
    spare = workspace.spare(2 * experts + groups)
    _sigmoid_top_k(logits, bias, groups, kept, k, eps, factor, spare, ids, weights)


@kernel
def _sigmoid_top_k(logits, bias, groups, kept, k, eps, factor, spare, ids, weights):
    tokens, experts = logits.shape
    size = experts // groups
    scores, choice, worth = spare[:experts], spare[experts : 2 * experts], spare[2 * experts : 2 * experts + groups]
    for t in range(tokens):
        for e in range(experts):
            scores[e] = sigmoid(logits[t, e])
            choice[e] = scores[e] + bias[e]
        if kept < groups:
            for group in range(groups):
                worth[group] = _two_largest(choice[group * size : (group + 1) * size])
            for group in range(groups):
                if _better(worth, group) >= kept:
                    choice[group * size : (group + 1) * size] = _MASKED
        _top_k(choice, k, ids[t])
        total = eps
        for j in range(k):
            weights[t, j] = scores[ids[t, j]]
            total += weights[t, j]
        for j in range(k):
            weights[t, j] *= factor / total


@inner
def _two_largest(values):
    """The sum of the two largest values; of the only one where there is one."""
    first, second = _MASKED, _MASKED
    for value in values:
        if value > first:
            first, second = value, first
        elif value > second:
            second = value
    return first + second if values.size > 1 else first


@inner
def _better(values, i):
    """How many values are larger than the i-th, or equal to it and before it."""
    count = 0
    for j in range(values.size):
        if values[j] > values[i] or (values[j] == values[i] and j < i):
            count += 1
    return count


@inner
def _top_k(values, k, ids):
    """ids = the indices of the k largest values, largest first."""
    count = 0
    for e in range(values.size):
        if count == k and not values[e] > values[ids[k - 1]]:
            continue
        # Insertion keeps `ids` sorted; equal values stay behind, so the lower index comes first.
        j = count if count < k else k - 1
        while j > 0 and values[e] > values[ids[j - 1]]:
            ids[j] = ids[j - 1]
            j -= 1
        ids[j] = e
        count = min(count + 1, k)
