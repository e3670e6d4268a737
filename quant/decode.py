"""Kernels that turn a checkpoint's bytes into float32 rows, at about the rate at which memory takes them.

Raw arrays in, `out` last. What is not a number in the source is none in `out` either, for packers to find.
"""

from __future__ import annotations

import numpy as np

from quant.jit import inner, parallel_kernel, prange

GROUP = 32  # inputs that share a scale of int4 rows


@inner
def _bf16(bits):
    """The float32 bits of a bfloat16's, a u16."""
    return np.uint32(np.uint32(bits) << np.uint32(16))


@inner
def _f16(bits):
    """The float32 bits of a float16's, a u16."""
    size = np.uint32(bits & np.uint16(0x7FFF))
    # Below 2^-14 a half is a fixed-point number; above, the exponent's bias moves from 15 to 127.
    small = np.float32(np.float32(np.int32(size)) * np.float32(2.0**-24)).view(np.uint32)
    wide = np.uint32((size << np.uint32(13)) + np.uint32(0x38000000))
    wide = np.uint32(wide | np.uint32(0x7F800000)) if size >= np.uint32(0x7C00) else wide
    wide = small if size < np.uint32(0x400) else wide
    return np.uint32(wide | np.uint32(np.uint32(bits & np.uint16(0x8000)) << np.uint32(16)))


@inner
def _e4m3(code):
    """The float32 bits of a float8 e4m3's, a u8; 0x7F and 0xFF are not numbers, and there is no infinity."""
    size = np.uint32(code & np.uint8(0x7F))
    # Below 2^-6 a code is a fixed-point number; above, the exponent's bias moves from 7 to 127.
    small = np.float32(np.float32(np.int32(size)) * np.float32(2.0**-9)).view(np.uint32)
    wide = np.uint32((size << np.uint32(20)) + np.uint32(0x3C000000))
    wide = np.uint32(0x7FC00000) if size == np.uint32(0x7F) else wide
    wide = small if size < np.uint32(8) else wide
    return np.uint32(wide | np.uint32(np.uint32(code & np.uint8(0x80)) << np.uint32(24)))


# The inner loops are functions of their own, because LLVM makes vectors of a loop over a slice and not of one over
# part of a matrix (measured: two to four times faster).
@inner
def _fp8_block(codes, scale, out):
    for c in range(codes.size):
        out[c] = np.uint32(_e4m3(codes[c])).view(np.float32) * scale


@inner
def _int4_group(codes, scale, out):
    for k in range(codes.size):
        out[2 * k] = np.float32(np.int32(codes[k] & np.uint8(15)) - np.int32(8)) * scale
        out[2 * k + 1] = np.float32(np.int32(codes[k] >> np.uint8(4)) - np.int32(8)) * scale


@parallel_kernel
def bf16(bits, out):
    """Shapes: bits [n] u16, out [n] u32 (float32 bits)."""
    for i in prange(bits.size):
        out[i] = _bf16(bits[i])


@parallel_kernel
def f16(bits, out):
    """Shapes: bits [n] u16, out [n] u32 (float32 bits)."""
    for i in prange(bits.size):
        out[i] = _f16(bits[i])


@parallel_kernel
def fp8(codes, scales, skipped, block_rows, block_cols, out):
    """W = e4m3(code) * scale, where a scale serves block_rows x block_cols weights.

    Shapes: codes [n, C] u8, scales [.., ceil(C / block_cols)] f32, out [n, C] f32; row 0 is row `skipped` of the
    first block row.
    """
    rows, cols = codes.shape
    for r in prange(rows):
        for b in range(scales.shape[1]):
            start, stop = b * block_cols, min(cols, (b + 1) * block_cols)
            _fp8_block(codes[r, start:stop], scales[(skipped + r) // block_rows, b], out[r, start:stop])


@parallel_kernel
def int4(codes, scales, out):
    """W = (code - 8) * scale, with a bf16 scale for each row and 32 inputs; the low half of a byte is the even input.

    Shapes: codes [n, C / 2] u8, scales [n, C / 32] u16 (bf16 bits), out [n, C] f32.
    """
    rows, groups = scales.shape
    half = GROUP // 2
    for r in prange(rows):
        for g in range(groups):
            scale = np.uint32(_bf16(scales[r, g])).view(np.float32)
            _int4_group(codes[r, g * half : (g + 1) * half], scale, out[r, g * GROUP : (g + 1) * GROUP])
