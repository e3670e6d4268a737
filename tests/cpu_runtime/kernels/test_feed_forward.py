from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest

from cpu_runtime.kernels.experts import grouped_matmul, swiglu
from cpu_runtime.layers.linear import Activations, padded
from cpu_runtime.layers.networks import Networks
from quant.formats import FORMATS, ROWS, tiles
from quant.jit import set_threads
from tests import reference
from tests.packing import packed

INNER, WIDTH, COLS, EXPERTS = 72, 96, 192, 3
PARTS = [(name, name, name) for name in FORMATS] + [("q4", "q4", "q6")]


def gaussian(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def records(names: tuple[str, str, str]) -> tuple[np.ndarray, Networks, list[list[np.ndarray]]]:
    """(records, how they are laid out, each expert's gate, up and down as stored)."""
    forms = [FORMATS[name] for name in names]
    shapes = [(INNER, COLS), (INNER, COLS), (WIDTH, padded(INNER))]
    weights = [[gaussian(*shape, seed=3 * e + i) for i, shape in enumerate(shapes)] for e in range(EXPERTS)]
    stored = [[packed(n, matrix).reshape(-1) for n, matrix in zip(names, expert, strict=True)] for expert in weights]
    offsets = np.cumsum([0, *(part.size for part in stored[0])]).tolist()
    rows = np.stack([np.concatenate(expert) for expert in stored])
    networks = Networks.of([(f, *shape, at) for f, shape, at in zip(forms, shapes, offsets[:3], strict=True)])
    restored = [[f.unpack(packed(f.name, m), *m.shape) for f, m in zip(forms, e, strict=True)] for e in weights]
    return rows, networks, restored


@pytest.mark.parametrize("names", PARTS, ids="-".join)
def test_feed_forward_is_its_steps_bit_for_bit(names: tuple[str, str, str]) -> None:
    rows, networks, restored = records(names)
    ids, x = [FORMATS[name].id for name in names], Activations(gaussian(1, COLS, seed=50))
    slots, members = np.array([2, 0], np.int32), np.array([1, 3], np.int32)
    out = np.full((4, ROWS * tiles(WIDTH)), np.nan, np.float32)
    networks.answer((rows, rows, rows), slots, members, x, out)
    assert np.isnan(out[[0, 2]]).all()

    starts, tokens = np.array([0, 1, 2], np.int32), np.zeros(2, np.int32)
    steps = [np.zeros((2, n), np.float32) for n in (padded(INNER), padded(INNER), ROWS * tiles(WIDTH))]
    for i in range(2):
        arrays = x.for_format(ids[i])
        grouped_matmul(ids[i], rows, networks.offsets[i], INNER, slots, starts, *arrays, tokens, steps[i])
    swiglu(steps[0], steps[1])
    arrays, tokens = Activations(steps[0]).for_format(ids[2]), np.arange(2, dtype=np.int32)
    grouped_matmul(ids[2], rows, networks.offsets[2], WIDTH, slots, starts, *arrays, tokens, steps[2])
    assert np.array_equal(out[members], steps[2])

    expected = reference.feed_forward(*restored[2], x.x[0])
    np.testing.assert_allclose(out[1, :WIDTH], expected, atol=0.05 * np.abs(expected).max())


def test_any_number_of_threads_gives_the_same_bits() -> None:
    rows, networks, _ = records(("q4", "q4", "q4"))
    slots = np.arange(EXPERTS, dtype=np.int32)
    found = []
    try:
        for threads, _ in product((1, 2), range(2)):
            set_threads(threads)
            out = np.empty((EXPERTS, ROWS * tiles(WIDTH)), np.float32)
            networks.answer((rows, rows, rows), slots, slots, Activations(gaussian(1, COLS, seed=7)), out)
            found.append(out)
    finally:
        set_threads(os.cpu_count() or 1)
    assert all(np.array_equal(found[0], other) for other in found[1:])
