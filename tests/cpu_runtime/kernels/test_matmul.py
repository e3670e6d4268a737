from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from cpu_runtime.kernels.activations import quantize_rows
from cpu_runtime.kernels.experts import grouped_matmul, swiglu, weighted_sum
from cpu_runtime.kernels.matmul import matmul, read_rows
from cpu_runtime.layers.linear import Activations, padded
from quant.formats import FORMATS, ROWS, tiles
from quant.jit import cpu_features, set_threads
from tests import reference
from tests.conftest import ROOT
from tests.packing import packed

SHAPES = [(1, 64), (16, 64), (40, 192), (33, 600), (16, 1100), (50, 80)]
INTEGER = ("q3", "q4", "q4c", "q5", "q6", "q8", "k4")


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def seen(x: Activations, name: str) -> np.ndarray:
    """The activations that a format's kernel computes with."""
    return reference.dequantized(*x.int8[:2]) if name in INTEGER else x.x


def product(name: str, weights: np.ndarray, x: Activations) -> np.ndarray:
    form = FORMATS[name]
    stored = packed(name, weights)
    out = np.full((x.x.shape[0], ROWS * len(stored)), np.nan, np.float32)
    matmul(form.id, stored, *x.for_format(form.id), out)
    return out[:, : weights.shape[0]]


@pytest.mark.parametrize("tokens", [1, 2, 5, 67])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_quantize_rows(tokens: int, size: float) -> None:
    x = gaussian(tokens, 192) * np.float32(size)
    x[0, 32:64] = 0
    q, scale = np.empty((tokens, 192), np.int8), np.empty((tokens, 6), np.float32)
    sums = np.empty((tokens, 12, 2), np.int16)
    quantize_rows(x, q, scale, sums)
    expected_q, expected_scale, _ = reference.quantize_rows(x)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    assert np.abs(q.astype(int) - expected_q).max() <= 1  # a tie may fall either way
    assert (q == expected_q).mean() > 0.999
    pairs = q.reshape(tokens, 12, 4, 2, 2).sum((2, 4), dtype=np.int16)
    assert np.array_equal(sums, -32 * pairs)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_matmul_is_its_twin(name: str, shape: tuple[int, int], tokens: int) -> None:
    weights, x = gaussian(*shape), Activations(gaussian(tokens, shape[1], seed=1))
    restored = FORMATS[name].unpack(packed(name, weights), *shape)
    expected = reference.matmul(restored, seen(x, name))
    np.testing.assert_allclose(product(name, weights, x), expected, atol=3e-6 * np.abs(expected).max(), rtol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_token_is_the_same_bits_in_any_company_and_on_any_threads(name: str) -> None:
    weights, rows = gaussian(70, 600), gaussian(13, 600, seed=1)
    together = product(name, weights, Activations(rows))
    try:
        for threads in (1, 2):
            set_threads(threads)
            alone = [product(name, weights, Activations(rows[t : t + 1])) for t in range(13)]
            assert np.array_equal(np.concatenate(alone), together)
    finally:
        set_threads(os.cpu_count() or 1)


@pytest.mark.parametrize("name", FORMATS)
def test_extreme_activations_do_not_saturate(name: str) -> None:
    signs = np.sign(gaussian(32, 512)).astype(np.float32)
    x = Activations(np.sign(gaussian(3, 512, seed=1)))
    restored = FORMATS[name].unpack(packed(name, signs), 32, 512)
    np.testing.assert_allclose(product(name, signs, x), reference.matmul(restored, x.x), atol=1e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_read_rows(name: str) -> None:
    form, weights, ids = FORMATS[name], gaussian(70, 600), np.array([69, 0, 16, 15, 16])
    stored = packed(name, weights)
    out = np.empty((5, padded(600)), np.float32)
    read_rows(form.id, stored, ids, out)
    np.testing.assert_allclose(out[:, :600], form.unpack(stored, 70, 600)[ids], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", FORMATS)
def test_grouped_matmul_is_a_matmul_for_each_expert(name: str) -> None:
    form, rows, cols = FORMATS[name], 40, 192
    experts = [gaussian(rows, cols, seed=e) for e in range(4)]
    offset, size = 128, form.matrix_bytes(rows, cols)
    records = np.zeros((4, offset + size + 64), np.uint8)
    for record, weights in zip(records, experts, strict=True):
        record[offset : offset + size] = packed(name, weights).reshape(-1)
    records.flags.writeable = False
    x = Activations(gaussian(6, cols, seed=9))
    slots, starts = np.array([3, 0, 2], np.int32), np.array([0, 1, 4, 9], np.int32)
    tokens = np.array([5, 0, 1, 2, 0, 1, 2, 3, 4], np.int32)
    out = np.empty((9, ROWS * tiles(rows)), np.float32)
    grouped_matmul(form.id, records, offset, rows, slots, starts, *x.for_format(form.id), tokens, out)
    for p in range(9):
        slot = slots[np.searchsorted(starts, p, side="right") - 1]
        alone = Activations(x.x[tokens[p] : tokens[p] + 1])
        assert np.array_equal(out[p, :rows], product(name, experts[slot], alone)[0])


def test_swiglu_and_weighted_sum() -> None:
    gate, up = gaussian(7, 96), gaussian(7, 96, seed=1)
    out = gate.copy()
    swiglu(out, up)
    np.testing.assert_allclose(out, reference.silu(gate.astype(np.float64)) * up, rtol=1e-5, atol=1e-7)
    answers, weights = gaussian(6, 70), np.abs(gaussian(3, 2, seed=2))
    places = np.array([[5, 0], [1, 4], [2, 3]], np.int32)
    total = np.empty((3, 64), np.float32)
    weighted_sum(answers, places, weights, total)
    expected = (answers.astype(np.float64)[places][:, :, :64] * weights[:, :, None]).sum(1)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


AVX2 = frozenset(["avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse4.1", "sse4.2", "ssse3"])
TESTS = [f"tests/cpu_runtime/kernels/test_{name}.py" for name in ("matmul", "feed_forward")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [{"NUMBA_DISABLE_JIT": "1"}, {"NUMBA_CPU_FEATURES": "", "NUMBA_CPU_NAME": "generic"}],
    ids=["interpreted", "portable"],
)
def test_other_ways_to_run_the_same_kernels(setting: dict[str, str], tmp_path: os.PathLike[str]) -> None:
    """The kernels as plain Python, and compiled for a CPU without any of the instructions that have a fast way."""
    names = "(matmul_is_its_twin and 40) or grouped or extreme or read_rows or feed_forward"
    environment = os.environ | setting | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", names, *TESTS]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "features"), [("haswell", AVX2), ("alderlake", AVX2 | {"avxvnni"})])
def test_kernels_for_lesser_cpus(name: str, features: frozenset[str], tmp_path: os.PathLike[str]) -> None:
    """What a CPU with more instructions can run besides: AVX2, and AVX-VNNI."""
    if not features <= cpu_features():
        pytest.skip(f"this CPU can't run what is compiled for {name}")
    setting = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in sorted(features))}
    test_other_ways_to_run_the_same_kernels(setting, tmp_path)
