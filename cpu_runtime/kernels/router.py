"""Which experts a token goes to, and with what weights."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.exponential import exp
from quant.jit import kernel


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


@kernel
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
