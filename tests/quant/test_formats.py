from __future__ import annotations

import hashlib

import numpy as np
import pytest

from quant.formats import ENCODABLE, FORMATS, Coded, Matrix
from tests.packing import copied, packed
from tests.reference_formats import WEIGHT, group_error, int4_matrix, int4_weight

CODED = [form.name for form in FORMATS.values() if isinstance(form, Coded)]
SHAPES = [(1, 1), (16, 64), (17, 65), (5, 512), (40, 600), (33, 1088)]


def gaussian(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols), np.float32)


def decibels(weights: np.ndarray, restored: np.ndarray) -> float:
    return float(10 * np.log10((weights.astype(np.float64) ** 2).sum() / ((weights - restored) ** 2).sum()))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpack_is_the_specification(name: str, shape: tuple[int, int]) -> None:
    form = FORMATS[name]
    stored = packed(name, gaussian(*shape))
    assert stored.nbytes == form.matrix_bytes(*shape)
    restored = Matrix(form, *shape, stored).unpack()
    for row, col in np.random.default_rng(1).integers(0, shape, (200, 2)):
        expected = WEIGHT[name](stored[row // 16].tobytes(), shape[1], row % 16, col)
        assert restored[row, col] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_padding_is_zero(name: str) -> None:
    form = FORMATS[name]
    whole = form.unpack(packed(name, gaussian(17, 96)), 32, 128)
    assert not whole[17:].any()
    assert not whole[:, 96:].any()


# Written once from this code after its errors had been checked; a change of any byte is a change of the format.
GOLDEN = {
    "f32": "b271eca27cfa8658",
    "bf16": "c7e6324a745239c6",
    "q8": "43c946d63128fd7e",
    "q6": "f889f61ebda1e39d",
    "q5": "74135f219de23b90",
    "q4": "8bc4b090b8c7feb9",
    "q4c": "4a1cd53d5e6b5adf",
    "q3": "de65a4094107cc8c",
    "k4": "2539ac10f394fdef",
}


@pytest.mark.parametrize("name", FORMATS)
def test_golden_bytes(name: str) -> None:
    # Multiples of 1/64 from integer arithmetic: the same numbers whatever the library of random numbers.
    steps = np.arange(40 * 600, dtype=np.int64).reshape(40, 600)
    weights = ((steps * 2654435761 % 4093 - 2046) / 64).astype(np.float32)
    assert hashlib.sha256(packed(name, weights)).hexdigest()[:16] == GOLDEN[name]


@pytest.mark.parametrize("name", ["q3", "q4", "q4c"])
def test_sums_of_eight_products_fit_into_int16(name: str) -> None:
    form = FORMATS[name]
    assert isinstance(form, Coded)
    assert 8 * 127 * int(np.abs(form.books).max()) < 1 << 15


def test_floats_are_kept() -> None:
    weights = gaussian(20, 70)
    assert np.array_equal(FORMATS["f32"].unpack(packed("f32", weights), 20, 70), weights)
    bf16 = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
    assert np.array_equal(FORMATS["bf16"].unpack(packed("bf16", bf16), 20, 70), bf16)


def test_bf16_rounds_to_nearest_even() -> None:
    weights = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0xBF80FFFF]], np.uint32).view(np.float32)
    restored = FORMATS["bf16"].unpack(packed("bf16", weights), 1, 4).view(np.uint32)
    assert [hex(x) for x in restored[0]] == ["0x3f800000", "0x3f820000", "0x3f810000", "0xbf810000"]


@pytest.mark.parametrize(
    ("name", "least"), [("q3", 18.5), ("q4c", 23.1), ("q4", 24.7), ("q5", 30.3), ("q6", 36.5), ("q8", 46.0)]
)
def test_error_on_gaussian_rows(name: str, least: float) -> None:
    weights = gaussian(256, 2048)
    assert decibels(weights, FORMATS[name].unpack(packed(name, weights), *weights.shape)) >= least


@pytest.mark.parametrize("name", [*CODED, "q8"])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0, 50.0])
def test_error_does_not_depend_on_size(name: str, size: float) -> None:
    weights = gaussian(64, 512) * np.float32(size)
    assert decibels(weights, FORMATS[name].unpack(packed(name, weights), 64, 512)) > {"q3": 18}.get(name, 22)


@pytest.mark.parametrize("spread", [0.0, 1.5])
@pytest.mark.parametrize("name", CODED)
def test_the_search_is_near_the_best_there_is(name: str, spread: float) -> None:
    """Also where errors at some inputs matter more than at others; spread 0 is the search that knows of none."""
    form, weights = ENCODABLE[name], gaussian(4, 128)
    assert isinstance(form, Coded)
    importance = np.exp(spread * gaussian(1, 128, seed=1)[0])
    stored, _ = form.pack_measured(weights, importance if spread else None)
    restored = form.unpack(stored, 4, 128)
    units = stored[0, :32].view(np.float16).astype(np.float64) * 2.0**-form.exponent
    scales = range(-form.largest_scale, form.largest_scale + 1)
    groups = weights.astype(np.float64).reshape(4, -1, form.group)
    by_group = importance.reshape(-1, form.group)
    best = sum(
        group_error(x, form.books, scales, units[r], w)
        for r in range(4)
        for x, w in zip(groups[r], by_group, strict=True)
    )
    assert (importance * (weights - restored) ** 2).sum() <= (1.06 if spread else 1.03) * best


@pytest.mark.parametrize("name", [*CODED, "q8"])
def test_special_rows(name: str) -> None:
    weights = gaussian(6, 512)
    weights[0] = 0
    weights[1, 1:] = 0
    weights[2] = 3
    weights[3] = 1e-30
    weights[4, 7] = 1000
    restored = FORMATS[name].unpack(packed(name, weights), 6, 512)
    assert not restored[0].any()
    assert restored[1, 0] == pytest.approx(weights[1, 0], rel=0.02)
    assert not restored[1, 32:].any()
    assert restored[2] == pytest.approx(weights[2], rel=0.02)
    assert not restored[3].any()
    assert restored[4, 7] == pytest.approx(1000, rel=0.02)


@pytest.mark.parametrize("name", ENCODABLE)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, wrong: float) -> None:
    weights = gaussian(20, 70)
    weights[18, 69] = wrong
    with pytest.raises(ValueError, match="finite"):
        ENCODABLE[name].pack(weights)


def test_rows_do_not_depend_on_their_company() -> None:
    weights = gaussian(64, 600)
    for name in FORMATS:
        parts = [packed(name, weights[at : at + 32]) for at in (0, 32)]
        assert np.array_equal(packed(name, weights), np.concatenate(parts))


@pytest.mark.parametrize("shape", [(1, 32), (16, 64), (17, 96), (40, 608), (33, 1088)], ids=str)
def test_k4_stands_for_the_very_numbers_of_the_source(shape: tuple[int, int]) -> None:
    rows, cols = shape
    random = np.random.default_rng(2)
    words = random.integers(0, 1 << 32, (rows, cols // 8), np.uint32).view(np.int32)
    scales = random.integers(0, 0x7E00, (rows, cols // 32), np.uint16) | random.integers(0, 2, (rows, 1)) << 15
    restored = FORMATS["k4"].unpack(copied(words, scales.astype(np.uint16)), rows, cols)
    expected = [[int4_weight(words, scales.astype("<u2"), r, c) for c in range(cols)] for r in range(rows)]
    assert np.array_equal(restored.view(np.uint32), np.array(expected, np.float32).view(np.uint32))


@pytest.mark.parametrize("wrong", [0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0x7E00, 0xFE00])
def test_k4_refuses_weights_that_may_not_be_finite(wrong: int) -> None:
    words, scales = int4_matrix(gaussian(20, 96))
    copied(words, scales)
    scales[18, 2] = wrong
    with pytest.raises(ValueError, match="finite"):
        copied(words, scales)
