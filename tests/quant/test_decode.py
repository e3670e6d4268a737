"""Decoders against their twins: every code, and any rows of any matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import decode
from tests.reference_encodings import bf16_bits, bf16_value, e4m3, fp8_weights, int4_weights, pack_words

CODES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def test_every_e4m3_code() -> None:
    out = np.empty((1, 256), np.float32)
    decode.fp8(np.arange(256, dtype=np.uint8)[None], np.ones((1, 2), np.float32), 0, 128, 128, out)
    assert np.array_equal(out[0], np.array([e4m3(code) for code in range(256)], np.float32), equal_nan=True)
    assert np.flatnonzero(np.isnan(out[0])).tolist() == [0x7F, 0xFF]
    assert (out[0, 0x38], out[0, 0x01], out[0, 0x7E], out[0, 0xFE]) == (1, 2.0**-9, 448, -448)
    assert np.signbit(out[0, 0x80])


def test_every_half() -> None:
    out = np.empty(CODES.size, np.uint32)
    decode.f16(CODES, out)
    assert np.array_equal(out.view(np.float32), CODES.view(np.float16).astype(np.float32), equal_nan=True)


def test_every_bf16() -> None:
    out = np.empty(CODES.size, np.uint32)
    decode.bf16(CODES, out)
    expected = np.array([bf16_value(code) for code in CODES[::7]], np.float32)
    assert np.array_equal(out.view(np.float32)[::7], expected, equal_nan=True)
    assert np.array_equal(out >> 16, CODES)
    assert not (out & 0xFFFF).any()


def test_the_order_of_int4_codes() -> None:
    row = np.array([[-8, -7, -1, 0, 1, 2, 6, 7] * 4])
    words = pack_words(row)
    assert hex(words.view(np.uint32)[0, 0]) == "0xfea98710"
    out = np.empty((1, 32), np.float32)
    decode.int4(words.view(np.uint8), bf16_bits(np.full((1, 1), 0.5)), out)
    assert np.array_equal(out, row / 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_rows_of_fp8(data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    block = data.draw(st.integers(1, 16)), data.draw(st.integers(1, 16))
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = random.integers(0, 256, (rows, cols), np.uint8)
    scales = random.standard_normal((-(-rows // block[0]), -(-cols // block[1])), np.float32)
    out = np.empty((stop - start, cols), np.float32)
    first = start // block[0]
    decode.fp8(codes[start:stop], scales[first : -(-stop // block[0])], start - first * block[0], *block, out)
    assert np.array_equal(out, fp8_weights(codes, scales, block)[start:stop], equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 99))
def test_any_int4_rows(rows: int, groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    words = random.integers(0, 1 << 32, (rows, 4 * groups), np.uint32).view(np.int32)
    scales = bf16_bits(random.standard_normal((rows, groups), np.float32))
    out = np.empty((rows, 32 * groups), np.float32)
    decode.int4(words.view(np.uint8), scales, out)
    assert np.array_equal(out, int4_weights(words, scales))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_a_scale_that_is_no_number_leaves_none(bits: int) -> None:
    out = np.empty((1, 32), np.float32)
    with np.errstate(invalid="ignore"):  # interpreted, the product of 0 and infinity warns
        decode.int4(np.full((1, 16), 0x88, np.uint8), np.array([[bits]], np.uint16), out)
    assert not np.isfinite(out).any()
