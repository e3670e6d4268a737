"""Kernels over whole rows of logits: how likely a token was, and how far one distribution is from another.

In float64 and by the C library's exp: what two close models differ by is less than float32 resolves.
"""

from __future__ import annotations

import numpy as np

from quant.jit import inner, parallel_kernel, prange


@inner
def _peak(row):
    """The index of the first of the largest."""
    best = 0
    for v in range(row.size):
        if row[v] > row[best]:
            best = v
    return best


@inner
def _log_sum(row, peak):
    """The logarithm of the sum of e**(x - peak); not a number where an x is none, or infinite."""
    total = 0.0
    for v in range(row.size):
        total += np.exp(np.float64(row[v]) - peak)
    return np.log(total)


@inner
def _divergence(base, base_peak, base_log_sum, row, peak, log_sum):
    """The sum of p (log p - log q) over the vocabulary, where p is the base's distribution."""
    total = 0.0
    for v in range(row.size):
        centred = np.float64(base[v]) - base_peak
        p = np.exp(centred - base_log_sum)
        if p > 0.0:
            total += p * (centred - (np.float64(row[v]) - peak))
    return max(total - base_log_sum + log_sum, 0.0)


@parallel_kernel
def surprise(logits, targets, out):
    """out[t] = -log p(target), in nats.

    Shapes: logits [T, V] f32, targets [T] i64, out [T] f64.
    """
    for t in prange(logits.shape[0]):
        row = logits[t]
        peak = np.float64(row[_peak(row)])
        out[t] = _log_sum(row, peak) - (np.float64(row[targets[t]]) - peak)


@parallel_kernel
def divergence(base, logits, targets, out):
    """Compare two distributions p (the base's) and q: KL(p || q) and -log p, -log q of the target, in nats; same top.

    Shapes: base, logits [T, V] f32, targets [T] i64, out [T, 4] f64, the last 1 where both have one likeliest token.
    """
    for t in prange(logits.shape[0]):
        first, second = base[t], logits[t]
        first_top, second_top = _peak(first), _peak(second)
        first_peak, second_peak = np.float64(first[first_top]), np.float64(second[second_top])
        first_log_sum, second_log_sum = _log_sum(first, first_peak), _log_sum(second, second_peak)
        out[t, 0] = _divergence(first, first_peak, first_log_sum, second, second_peak, second_log_sum)
        out[t, 1] = first_log_sum - (np.float64(first[targets[t]]) - first_peak)
        out[t, 2] = second_log_sum - (np.float64(second[targets[t]]) - second_peak)
        out[t, 3] = 1.0 if first_top == second_top else 0.0
