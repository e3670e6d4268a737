"""Slow, obvious twins of the block formats: bytes to weights one weight at a time, and an exhaustive-enough search.

Written from `quant/FORMAT.md`, not from the code.
"""

from __future__ import annotations

import numpy as np

from quant.codebooks import Q3_BOOKS, Q4_BOOKS, Q4C_BOOKS, Q5_BOOK, Q6_BOOK


def half(tile: bytes, at: int) -> float:
    return float(np.frombuffer(tile[at : at + 2], "<f2")[0])


ORDER = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]  # of the rows in a strip


def strip_code(tile: bytes, strip: int, row: int, col: int) -> int:
    """The 4-bit code of an input in a strip of 32 that begins at a byte."""
    byte = tile[strip + 16 * ORDER.index(row) + col % 16]
    return byte >> 4 if col % 32 >= 16 else byte & 15


def q4_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q4 tile."""
    segments = -(-cols // 512)
    head = -(-segments * 32 // 64) * 64
    block, group = head + col // 64 * 576, col % 64 // 16
    meta = tile[block + 16 * group + row]
    scale = meta >> 2 if meta < 128 else (meta >> 2) - 64
    code = strip_code(tile, block + 64 + 256 * (col % 64 // 32), row, col)
    return half(tile, col // 512 * 32 + 2 * row) / 1024 * scale * float(Q4_BOOKS[meta & 3, code])


def signed(byte: int) -> int:
    return byte if byte < 128 else byte - 256


def q4c_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q4c tile."""
    block = 64 + col // 128 * 1088
    meta = signed(tile[block + 16 * (col % 128 // 32) + row])
    code = strip_code(tile, block + 64 + 256 * (col % 128 // 32), row, col)
    return half(tile, 2 * row) / 1024 * (meta >> 2) * float(Q4C_BOOKS[meta & 3, code])


def q3_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q3 tile."""
    segments = -(-cols // 512)
    block = -(-segments * 32 // 64) * 64 + col // 64 * 448
    meta = signed(tile[block + 16 * (col % 64 // 16) + row])
    eight = block + 64 + 192 * (col % 64 // 32) + 96 * (row // 8)
    place, high = ORDER.index(row) % 8, 4 * (col % 32 // 16)
    if place < 6:
        code = tile[eight + 16 * place + col % 16] >> high & 7
    else:
        code = sum((tile[eight + 16 * (place - 6 + 2 * n) + col % 16] >> high >> 3 & 1) << n for n in range(3))
    return half(tile, col // 512 * 32 + 2 * row) / 1024 * (meta >> 3) * float(Q3_BOOKS[meta & 7, code])


def q5_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q5 tile."""
    block, at, i = 64 + col // 64 * 704, 4 * row + col % 4, col % 64 // 4
    byte = tile[block + 64 * (1 + i // 2) + at]
    code = (byte >> 4 if i % 2 else byte & 15) + 16 * (tile[block + 64 * (9 + i // 8) + at] >> i % 8 & 1)
    scale = signed(tile[block + 16 * (col % 64 // 16) + row])
    return half(tile, 2 * row) / 16384 * scale * float(Q5_BOOK[0, code])


def q6_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q6 tile."""
    block, at, i = 64 + col // 64 * 832, 4 * row + col % 4, col % 64 // 4
    byte = tile[block + 64 * (1 + i // 2) + at]
    code = (byte >> 4 if i % 2 else byte & 15) + 16 * (tile[block + 64 * (9 + i // 4) + at] >> 2 * (i % 4) & 3)
    scale = signed(tile[block + 16 * (col % 64 // 16) + row])
    return half(tile, 2 * row) / 16384 * scale * float(Q6_BOOK[0, code])


def bfloat(two: bytes) -> float:
    return float(np.frombuffer(b"\0\0" + two, "<f4")[0])


def k4_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a k4 tile."""
    block, group = col // 64 * 576, col % 64 // 16
    byte = tile[block + 64 + 64 * (2 * group + col % 16 // 8) + 4 * row + col % 4]
    code = byte >> 4 if col % 8 >= 4 else byte & 15
    at = block + 32 * (group // 2) + 2 * row
    return (code - 8) * bfloat(tile[at : at + 2])


def int4_weight(words: np.ndarray, scales: np.ndarray, row: int, col: int) -> float:
    """One weight of a matrix as compressed-tensors packs int4: 8 weights an int32, the first in the lowest nibble.

    Shapes: words [R, C/8] i32, each weight stored 8 higher · scales [R, C/32] u16, the bits of bf16
    """
    nibble = (int(words[row, col // 8]) & 0xFFFFFFFF) >> 4 * (col % 8) & 15
    return (nibble - 8) * bfloat(scales[row, col // 32].tobytes())


def int4_matrix(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(words, scales) of a source that stores these weights as int4; a part of a group is filled up with zeros.

    The largest of a group is 8 (-8 where negative) steps, so that every code occurs.
    """
    rows, cols = weights.shape
    groups = np.zeros((rows, -(-cols // 32), 32), np.float32)
    groups.reshape(rows, -1)[:, :cols] = weights
    bits = (np.abs(groups).max(2) / np.float32(8)).view(np.uint32) >> 16
    steps = (bits << 16).view(np.float32)[:, :, None]
    codes = np.clip(np.rint(groups / np.where(steps > 0, steps, 1)), -8, 7).astype(np.int64) + 8
    nibbles = codes.reshape(rows, -1, 8) << np.arange(0, 32, 4)
    return nibbles.sum(2).astype(np.uint32).view(np.int32), bits.astype(np.uint16)


def q8_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a q8 tile."""
    block, i = col // 64 * 1088, col % 64
    code = tile[block + 64 + 64 * (i // 4) + 4 * row + i % 4]
    return half(tile, block + 32 * (i // 32) + 2 * row) * (code if code < 128 else code - 256)


def bf16_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of a bf16 tile."""
    at = 2 * (16 * col + row)
    return bfloat(tile[at : at + 2])


def f32_weight(tile: bytes, cols: int, row: int, col: int) -> float:
    """One weight of an f32 tile."""
    at = 4 * (16 * col + row)
    return float(np.frombuffer(tile[at : at + 4], "<f4")[0])


WEIGHT = {
    "q3": q3_weight,
    "q4": q4_weight,
    "q4c": q4c_weight,
    "q5": q5_weight,
    "q6": q6_weight,
    "k4": k4_weight,
    "q8": q8_weight,
    "bf16": bf16_weight,
    "f32": f32_weight,
}


def group_error(x: np.ndarray, books: np.ndarray, scales: range, unit: float, w: np.ndarray) -> float:
    """Least squared error of a group of weights over every book and stored scale, for a given super-scale unit.

    An error at an input counts w times.
    """
    least = float((w * x**2).sum())
    for book in books.astype(np.float64):
        for s in scales:
            if s:
                least = min(least, float((w * np.abs(x[:, None] - book * s * unit).min(1) ** 2).sum()))
    return least
