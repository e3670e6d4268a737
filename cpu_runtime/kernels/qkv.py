"""Queries, keys and values on their way from the projections to attention: normed, rotated, kept for later tokens."""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.norm import rms_norm_row
from cpu_runtime.kernels.pages import write_token
from cpu_runtime.kernels.rope import angles, turn
from cpu_runtime.workspace import NEW, Workspace
from quant.jit import inner, kernel, parallel_kernel, prange

Norms = tuple[np.ndarray, np.float32, np.ndarray, np.float32]  # weights and eps, of queries and of keys
Rotation = tuple[np.ndarray, int, int, np.float32]  # as `rope.rotate` has it


def ready_and_keep(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    norms: Norms,
    rotation: Rotation,
    start: int,
    keys: np.ndarray,
    values: np.ndarray,
    workspace: Workspace = NEW,
) -> None:
    """Norm and rotate queries and keys in place; store keys and values at positions start .. start + T - 1.

    As many numbers are normed together as the norm has weights: a head's, or those of all heads; of no weights, none.
    Shapes: query [T, H d], key, value [T, K d] f32 · keys, values [P, K, PAGE, d], as `pages.as_stored` has them
    """
    ready = _ready_token if len(query) == 1 else _ready_tokens
    size = 2 * rotation[0].size
    spare = workspace.spare(len(query) * size)[: len(query) * size].reshape(-1, size)
    ready(query, key, value, norms, rotation, start, spare, keys, values)


@kernel
def _ready_token(query, key, value, norms, rotation, start, spare, keys, values):
    """For one token threads would take longer to wake than it takes."""
    _ready(query[0], key[0], value[0], norms, rotation, start, spare[0], keys, values)


@parallel_kernel
def _ready_tokens(query, key, value, norms, rotation, start, spare, keys, values):
    for t in prange(query.shape[0]):
        _ready(query[t], key[t], value[t], norms, rotation, start + t, spare[t], keys, values)


@inner
def _ready(query, key, value, norms, rotation, position, spare, keys, values):
    q_weight, q_eps, k_weight, k_eps = norms
    inv_freq, step, apart, magnitude = rotation
    size = keys.shape[3]
    _norm(query, q_weight, q_eps)
    _norm(key, k_weight, k_eps)
    cos, sin = angles(position, inv_freq, spare)
    turn(query.reshape(-1, size), cos, sin, step, apart, magnitude)
    turn(key.reshape(-1, size), cos, sin, step, apart, magnitude)
    write_token(key.reshape(-1, size), position, keys)
    write_token(value.reshape(-1, size), position, values)


@inner
def _norm(row, weight, eps):
    for i in range(0, row.size if weight.size else 0, max(weight.size, 1)):
        some = row[i : i + weight.size]
        rms_norm_row(some, weight, eps, some)
