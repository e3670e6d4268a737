"""Pages of rows that tokens leave behind for later ones: 256 positions each, head by head."""

from __future__ import annotations

import numpy as np

from quant.jit import inner, kernel

PAGE = 256  # positions
# Bits of float32s: the largest float16, the smallest normal one, infinity; and how much the exponents differ.
_LARGEST, _NORMAL, _INFINITY, _REBIAS = 0x477FE000, 0x38800000, 0x7F800000, (127 - 15) << 23
_HALF, _HALF_BITS = np.float32(0.5), 0x3F000000
_NAN = 0x7E00
_F16 = np.dtype(np.float16)


def as_stored(rows: np.ndarray) -> np.ndarray:
    """The same memory as kernels see it: float32, or the bits of float16."""
    return rows.view(np.uint16) if rows.dtype == _F16 else rows


def write_rows(rows: np.ndarray, start: int, pages: np.ndarray) -> None:
    """Store the rows of T tokens at positions start .. start + T - 1.

    Shapes: rows [T, K, d] f32 · pages [P, K, PAGE, d] f32, or f16 or its bits
    A number beyond float16 is stored as the largest one: an infinity would turn into NaN even where it is masked.
    """
    _write_rows(rows, start, as_stored(pages))


@kernel
def _write_rows(rows, start, pages):
    for t in range(rows.shape[0]):
        write_token(rows[t], start + t, pages)


@inner
def write_token(rows, position, pages):
    """Store one token's rows: [K, d] f32."""
    page, at = position // PAGE, position % PAGE
    for h in range(rows.shape[0]):
        for i in range(rows.shape[1]):
            if pages.itemsize == 2:
                pages[page, h, at, i] = f16_bits(rows[h, i])
            else:
                pages[page, h, at, i] = rows[h, i]


@inner
def f16_bits(x):
    """x as float16, the nearest, to even in the middle, at most the largest finite one; NaN stays NaN."""
    bits = np.float32(x).view(np.int32)
    size = bits & np.int32(0x7FFFFFFF)
    bounded = min(size, np.int32(_LARGEST))
    # What is cut off is rounded by adding almost half of it; a tie goes up only from odd to even.
    normal = (bounded - np.int32(_REBIAS) + np.int32(0xFFF) + (bounded >> np.int32(13) & np.int32(1))) >> np.int32(13)
    # The last bit of 0.5 is worth a subnormal's: adding rounds.
    subnormal = np.float32(abs(x) + _HALF).view(np.int32) - np.int32(_HALF_BITS)
    found = subnormal if bounded < np.int32(_NORMAL) else normal
    found = np.int32(_NAN) if size > np.int32(_INFINITY) else found
    return np.uint16(bits >> np.int32(16) & np.int32(0x8000) | found)
