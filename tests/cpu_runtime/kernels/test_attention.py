from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime.kernels.attention import attend
from cpu_runtime.kernels.pages import PAGE, write_rows
from quant.jit import set_threads
from tests import reference

ROOT = Path(__file__).parents[3]


def case(
    positions: int, tokens: int, heads: int, kv_heads: int, size: int, dtype: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q [T, H, d] of the last tokens, and keys and values [K, positions, d]."""
    rng = np.random.default_rng(positions + size)
    q = rng.standard_normal((tokens, heads, size)).astype(np.float32)
    k, v = (rng.standard_normal((kv_heads, positions, size)).astype(dtype) for _ in range(2))
    return q, k, v


def pages_of(rows: np.ndarray) -> np.ndarray:
    """[K, positions, d] in pages, which hold junk beyond the positions."""
    heads, positions, size = rows.shape
    pages = np.full((positions // PAGE + 2, heads, PAGE, size), 999, rows.dtype)
    write_rows(rows.transpose(1, 0, 2).astype(np.float32), 0, pages)
    return pages


def answer(q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int, value_size: int | None = None) -> np.ndarray:
    out = np.full((*q.shape[:2], value_size or v.shape[2]), np.nan, np.float32)
    attend(q, pages_of(k), pages_of(v), start, np.float32(q.shape[2] ** -0.5), out)
    return out


HEADS = [(4, 2, 32), (3, 1, 64), (8, 8, 20), (32, 2, 256), (40, 1, 24)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("heads", "kv_heads", "size"), HEADS)
@pytest.mark.parametrize(("start", "tokens"), [(0, 1), (0, 2), (0, 65), (31, 7), (255, 2), (700, 1), (510, 65)])
def test_attention_matches_its_twin(dtype: str, heads: int, kv_heads: int, size: int, start: int, tokens: int) -> None:
    q, k, v = case(start + tokens, tokens, heads, kv_heads, size, dtype)
    expected = reference.attend(q, k, v, start, size**-0.5)
    np.testing.assert_allclose(answer(q, k, v, start), expected, atol=2e-6)


@pytest.mark.parametrize("value_size", [16, 24])
def test_values_may_be_shorter_than_their_rows(value_size: int) -> None:
    q, k, _ = case(300, 5, 20, 1, 40, "float16")
    expected = reference.attend(q, k, k[:, :, :value_size], 295, 40**-0.5)
    np.testing.assert_allclose(answer(q, k, k, 295, value_size), expected, atol=2e-6)


def test_a_token_alone_and_among_others_is_the_same_bits() -> None:
    q, k, v = case(530, 300, 6, 2, 32, "float16")
    whole = answer(q, k, v, 230)
    alone = np.concatenate([answer(q[t : t + 1], k, v, 230 + t) for t in range(300)])
    set_threads(1)
    one_thread = answer(q, k, v, 230)
    set_threads(64)
    assert np.array_equal(whole, alone)
    assert np.array_equal(whole, one_thread)


@pytest.mark.parametrize("kv_heads", [2, 64])
def test_many_heads_and_positions_need_several_waves_of_tokens(kv_heads: int) -> None:
    # 3 pages of 64 heads of 64 are 12,288 numbers a token, of which a wave has at most 96 tokens.
    q, k, v = case(530, 130, 64, kv_heads, 64, "float32")
    parts = [answer(q[:50], k, v, 400), answer(q[50:], k, v, 450)]
    assert np.array_equal(answer(q, k, v, 400), np.concatenate(parts))


@pytest.mark.parametrize("size", [1e-3, 60.0])
def test_extreme_scores_stay_finite(size: float) -> None:
    q, k, v = case(300, 3, 2, 1, 32, "float32")
    q, k = (q * size).astype(np.float32), (k * size).astype(np.float32)
    out = answer(q, k, v, 297)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(out, reference.attend(q, k, v, 297, 32**-0.5), atol=2e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_stored_at_their_positions(dtype: str) -> None:
    rows = np.random.default_rng(0).standard_normal((PAGE + 30, 2, 8)).astype(np.float32)
    pages = np.zeros((3, 2, PAGE, 8), dtype)
    write_rows(rows, 250, pages)
    stored = pages.swapaxes(1, 2).reshape(3 * PAGE, 2, 8)
    assert np.array_equal(stored[250 : 250 + len(rows)], rows.astype(dtype))
    assert not stored[:250].any()
    assert not stored[250 + len(rows) :].any()


def test_every_float16_is_read_exactly() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)].reshape(1, 1, -1)
    out = np.empty(numbers.shape, np.float32)
    pages = pages_of(numbers)
    attend(np.zeros_like(out), pages, pages, 0, np.float32(1), out)  # one position: the answer is its value
    assert np.array_equal(out, numbers.astype(np.float32))


def test_float16_is_rounded_as_numpy_rounds() -> None:
    exact = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (exact[:-1] + exact[1:]) / 2
    numbers = np.concatenate([exact, middle, np.nextafter(middle, 0), np.nextafter(middle, 1e9)])
    numbers = np.concatenate([numbers, -numbers, [np.float32(np.nan)]])
    pages = np.zeros((1, 1, PAGE, numbers.size), np.float16)
    write_rows(numbers[None, None], 0, pages)
    assert np.array_equal(pages[0, 0, 0], numbers.astype(np.float16), equal_nan=True)


def test_numbers_beyond_float16_become_the_largest_one() -> None:
    pages = np.zeros((1, 1, PAGE, 2), np.float16)
    write_rows(np.array([[[1e6, -1e6]]], np.float32), 0, pages)
    assert pages[0, 0, 0].tolist() == [65504, -65504]


TINY = """
import numpy as np
from cpu_runtime.kernels import attention, delta, indexer, norm, pages, rope, router
from tests import reference

f = lambda *shape: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
empty = lambda *shape: np.empty(shape, np.float32)
close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5)

out = empty(2, 8)
norm.rms_norm(f(2, 8), f(8), np.float32(1e-6), out)
close(out, reference.rms_norm(f(2, 8), f(8), 1e-6))
norm.layer_norm(f(2, 8), f(8), f(8), np.float32(1e-6), out)
close(out, reference.layer_norm(f(2, 8), f(8), f(8), 1e-6))

heads = f(2, 2, 8)
rope.rotate(heads, 3, f(2), 1, 2, np.float32(1))
close(heads, reference.rotate_half_split(f(2, 2, 8), 3, f(2)))

for dtype in np.float16, np.float32:
    kept = np.zeros((1, 1, pages.PAGE, 4), dtype)
    pages.write_rows(f(4, 1, 4), 0, kept)
    out, rows = empty(2, 2, 4), kept[0, :, :4]
    attention.attend(f(2, 2, 4), kept, kept, 2, np.float32(0.5), out)
    close(out, reference.attend(f(2, 2, 4), rows, rows, 2, 0.5))
    scores = empty(2, 4)
    indexer.index_scores(f(2, 2, 4), f(2, 2), kept, 4, scores)
    close(scores, reference.index_scores(f(2, 2, 4), f(2, 2), rows[0]))
    best = np.empty(2, np.int64)
    indexer.top_positions(scores[1], 2, best)
    assert best.tolist() == reference.top_positions(scores[1], 2).tolist()

state, out = f(3, 6), empty(2, 6)
delta.causal_conv_silu(f(2, 6), f(4, 6), state, out)
twin = f(3, 6)
close(out, reference.causal_conv_silu(f(2, 6), f(4, 6), twin))
close(state, twin)

decay, beta = empty(2, 2), empty(2, 2)
delta.delta_gates(f(2, 2), f(2, 2), f(2), f(2), decay, beta)
close((decay, beta), reference.delta_gates(f(2, 2), f(2, 2), f(2), f(2)))

state, out, twin = f(2, 6, 4), empty(2, 2, 4), f(2, 6, 4)
delta.gated_delta(f(2, 1, 6), f(2, 1, 6), f(2, 2, 4), decay, beta, state, out)
close(out, reference.gated_delta(f(2, 1, 6), f(2, 1, 6), f(2, 2, 4), decay, beta, twin))
close(state, twin)

delta.gated_norm(f(2, 2, 4), f(2, 2, 4), f(4), np.float32(1e-6), out)
close(out, reference.gated_norm(f(2, 2, 4), f(2, 2, 4), f(4), 1e-6))
delta.sigmoid_gate(f(2, 2, 4), f(2, 2, 4), out)
close(out, reference.sigmoid_gate(f(2, 2, 4), f(2, 2, 4)))

ids, weights = np.empty((2, 3), np.int32), empty(2, 3)
router.softmax_top_k(f(2, 9), 3, ids, weights)
close(weights, reference.softmax_top_k(f(2, 9), 3)[1])
settings = f(9), 3, 2, 3, np.float32(1e-20), np.float32(2.5)
router.sigmoid_top_k(f(2, 9), *settings, ids, weights)
close(weights, reference.sigmoid_top_k(f(2, 9), *settings)[1])
print("matched")
"""


def test_kernels_are_the_python_they_are_written_in() -> None:
    """Every kernel that is a plain loop, without compilation."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TINY],
        cwd=ROOT,
        env={"NUMBA_DISABLE_JIT": "1", "PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "matched\n", done.stderr
