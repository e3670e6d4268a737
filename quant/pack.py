"""Kernels that quantize rows of weights straight into the tiles of a format.

Each takes weights [R, C] f32 (C-contiguous), zeroed tiles [ceil(R / 16), tile_bytes] u8, zeroed sums [tiles, 2] f64,
to which it adds each tile's squared error and squared weights, and the importance of the inputs, [C] f32 or None, which
changes nothing but in formats with books; it returns False where a weight is not finite or does not fit the format's
scales. `pack_k4` takes codes and scales in place of weights, and only moves them. Tiles are independent, so the result
does not depend on the number of threads nor on how rows are cut into calls of whole tiles.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from quant.formats import ENCODABLE, Coded
from quant.half import TOO_LARGE, half_bits, half_value
from quant.jit import inner, parallel_kernel, prange
from quant.pack_coded import pack_coded

_K4_LIMIT = np.uint16(0x7E00)  # bf16 2^125: 8 times it is infinite as a float32


@inner
def _q8_group(x, factors, q):
    """The fp16 bits of the scale with the least squared error for 32 weights, and their codes in q."""
    peak = np.float32(0)
    for k in range(32):
        if not np.isfinite(x[k]):
            return TOO_LARGE
        peak = max(peak, abs(x[k]))
    best = half_bits(peak / np.float32(127))
    least = np.float32(np.inf)
    for f in factors:
        inverse = np.float32(127) / (f * peak) if peak > 0 else np.float32(0)
        xq = np.float32(0)
        qq = np.float32(0)
        for k in range(32):
            level = min(max(np.rint(x[k] * inverse), np.float32(-127)), np.float32(127))
            xq += x[k] * level
            qq += level * level
        bits = half_bits(xq / qq) if qq > 0 else np.uint16(0)
        scale = half_value(bits)
        inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
        error = np.float32(0)
        for k in range(32):
            level = min(max(np.rint(x[k] * inverse), np.float32(-127)), np.float32(127))
            rest = x[k] - level * scale
            error += rest * rest
        if error < least:
            least, best = error, bits
    scale = half_value(best)
    inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
    for k in range(32):
        q[k] = np.int8(min(max(np.rint(x[k] * inverse), np.float32(-127)), np.float32(127)))
    return best


@parallel_kernel
def _q8(weights, out, sums, factors):
    """Shapes: weights [R, C] f32, out [tiles, tile_bytes] u8, sums [tiles, 2] f64 -> whether all fits."""
    rows, cols = weights.shape
    bad = 0
    for t in prange(out.shape[0]):
        x = np.zeros(32, np.float32)
        q = np.zeros(32, np.int8)
        for r in range(min(16, rows - 16 * t)):
            for at in range(0, cols, 32):
                for k in range(32):
                    x[k] = weights[16 * t + r, at + k] if at + k < cols else np.float32(0)
                bits = _q8_group(x, factors, q)
                if bits >= TOO_LARGE:
                    bad += 1
                scale = half_value(bits)
                error = squares = np.float32(0)
                for k in range(32):
                    rest = x[k] - np.float32(q[k]) * scale
                    error += rest * rest
                    squares += x[k] * x[k]
                sums[t, 0] += error
                sums[t, 1] += squares
                block = at // 64 * 1088
                g = at % 64 // 32
                out[t, block + 32 * g + 2 * r] = np.uint8(bits & 0xFF)
                out[t, block + 32 * g + 2 * r + 1] = np.uint8(bits >> 8)
                for k in range(32):
                    out[t, block + 64 + 64 * (8 * g + k // 4) + 4 * r + k % 4] = np.uint8(q[k])
    return bad == 0


@inner
def _rounded(bits):
    """The upper half of a float32, to nearest even."""
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))


# Two loops over a row in the cache cost less than sums in the one that scatters it: they become vector code.
@inner
def _add_squares(row, sums):
    squares = np.float64(0)
    for c in range(row.size):
        value = np.float64(np.uint32(row[c]).view(np.float32))
        squares += value * value
    sums[1] += squares


@inner
def _add_rounding(row, sums):
    error = np.float64(0)
    for c in range(row.size):
        bits = np.uint32(row[c])
        rest = bits.view(np.float32) - np.uint32(_rounded(bits) << np.uint32(16)).view(np.float32)
        error += np.float64(rest) * np.float64(rest)
    sums[0] += error


@parallel_kernel
def _floats(bits_in, out, sums, bfloat):
    """Shapes: bits_in [R, C] u32 (float32 bits), out [tiles, C', 16] u16 or u32, sums [tiles, 2] f64 -> all finite."""
    rows, cols = bits_in.shape
    bad = 0
    for t in prange(out.shape[0]):
        for r in range(min(16, rows - 16 * t)):
            for c in range(cols):
                bits = bits_in[16 * t + r, c]
                if (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000):
                    bad += 1
                out[t, c, r] = _rounded(bits) if bfloat else bits
            _add_squares(bits_in[16 * t + r], sums[t])
            if bfloat:
                _add_rounding(bits_in[16 * t + r], sums[t])
    return bad == 0


@inner
def _line_order(words):
    """Nibbles 0 1 2 3 4 5 6 7 of each half, lowest first -> 0 4 1 5 2 6 3 7: a byte holds two inputs 4 apart."""
    middle = (words ^ (words >> np.uint64(8))) & np.uint64(0x0000FF000000FF00)
    words = words ^ middle ^ (middle << np.uint64(8))
    middle = (words ^ (words >> np.uint64(4))) & np.uint64(0x00F000F000F000F0)
    return words ^ middle ^ (middle << np.uint64(4))


@inner
def _k4_codes(codes, lines):
    """The codes of up to 16 rows, [rows, C/8] u32, into a tile's lines of 8 u64, which hold two rows each."""
    rows = np.uint64(codes.shape[0])  # unsigned: an index needs no test for being counted from the end
    for i in range(np.uint64(codes.shape[1])):
        line = np.uint64(8) * (i + (i >> np.uint64(3)) + np.uint64(1))  # one line of scales before each 8 of codes
        for lane in range((rows + np.uint64(1)) >> np.uint64(1)):
            second = np.uint64(2) * lane + np.uint64(1)
            both = np.uint64(codes[second - np.uint64(1), i])
            if second < rows:
                both |= np.uint64(codes[second, i]) << np.uint64(32)
            lines[line + lane] = _line_order(both)


@inner
def _k4_scales(scales, halves):
    """The scales of up to 16 rows, [rows, C/32] u16, into a tile of u16; False where a weight may not be finite."""
    fits = True
    for g in range(scales.shape[1]):
        for r in range(scales.shape[0]):
            halves[16 * g + 256 * (g >> 1) + r] = scales[r, g]
            fits &= (scales[r, g] & np.uint16(0x7FFF)) < _K4_LIMIT
    return fits


@parallel_kernel
def _k4(codes, scales, lines, halves):
    """Shapes: codes [R, C/8] u32, scales [R, C/32] u16, lines [tiles, tile_bytes/8] u64, halves the same as u16."""
    bad = 0
    for t in prange(lines.shape[0]):
        _k4_codes(codes[16 * t : 16 * t + 16], lines[t])
        if not _k4_scales(scales[16 * t : 16 * t + 16], halves[t]):
            bad += 1
    return bad == 0


# Start scales, as shares of the one that just covers the peak: with the three from 0.96 to 1 it was 0.5 dB worse.
Q8_FACTORS = np.linspace(0.95, 1.07, 8, dtype=np.float32)


def pack_q8(weights: np.ndarray, out: np.ndarray, sums: np.ndarray, importance: np.ndarray | None = None) -> bool:
    """Least-squares scale from each start factor; the best as stored."""
    return bool(_q8(weights, out, sums, Q8_FACTORS))


def pack_bf16(weights: np.ndarray, out: np.ndarray, sums: np.ndarray, importance: np.ndarray | None = None) -> bool:
    """Round to nearest even."""
    return bool(_floats(weights.view(np.uint32), out.view(np.uint16).reshape(len(out), -1, 16), sums, True))


def pack_f32(weights: np.ndarray, out: np.ndarray, sums: np.ndarray, importance: np.ndarray | None = None) -> bool:
    """A transposition."""
    return bool(_floats(weights.view(np.uint32), out.view(np.uint32).reshape(len(out), -1, 16), sums, False))


def pack_k4(codes: np.ndarray, scales: np.ndarray, out: np.ndarray) -> bool:
    """Move a source's int4 weights and bf16 scales into tiles as they are; False where a weight may not be finite.

    Shapes: codes [R, C/2] u8, byte k of a row holding input 2k in its low nibble and 2k + 1 in its high one, each
            8 above the weight it stands for · scales [R, C/32] u16, the bits of bf16 · C a multiple of 32
            out [ceil(R / 16), tile_bytes] u8, zeroed: what is not written is padding, of scale 0
    """
    return bool(_k4(codes.view(np.uint32), scales, out.view(np.uint64), out.view(np.uint16)))


PACK = {"q8": pack_q8, "bf16": pack_bf16, "f32": pack_f32} | {
    form.name: partial(pack_coded, form) for form in ENCODABLE.values() if isinstance(form, Coded)
}
