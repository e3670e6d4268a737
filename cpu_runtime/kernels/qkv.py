"""Queries, keys and values on their way from the projections to attention: normed, rotated, kept for later tokens."""

from __future__ import annotations

from cpu_runtime.kernels.norm import rms_norm_row
from cpu_runtime.kernels.pages import write_token
from cpu_runtime.kernels.rope import rotate_token
from quant.jit import inner, kernel


@kernel
def ready_and_keep(
    query, key, value, q_weight, q_eps, k_weight, k_eps, start, inv_freq, first, second, magnitude, keys, values
):
    """Norm and rotate queries and keys in place; store keys and values at positions start .. start + T - 1.

    As many numbers are normed together as the norm has weights: a head's, or those of all heads; of no weights, none.
    Shapes: query [T, H d], key, value [T, K d] f32 · the rotation as `rope.rotate` has it
            keys, values [P, K, PAGE, d], as `pages.as_stored` has them
    """
    tokens, size = query.shape[0], keys.shape[3]
    for t in range(tokens):
        _norm(query[t], q_weight, q_eps)
        _norm(key[t], k_weight, k_eps)
        queries, new, worth = query[t].reshape(-1, size), key[t].reshape(-1, size), value[t].reshape(-1, size)
        rotate_token(queries, start + t, inv_freq, first, second, magnitude)
        rotate_token(new, start + t, inv_freq, first, second, magnitude)
        write_token(new, start + t, keys)
        write_token(worth, start + t, values)


@inner
def _norm(row, weight, eps):
    for i in range(0, row.size if weight.size else 0, max(weight.size, 1)):
        some = row[i : i + weight.size]
        rms_norm_row(some, weight, eps, some)
