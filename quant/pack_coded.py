"""The kernel that quantizes rows of weights into the tiles of a format with books: what `quant/search.py` finds."""

from __future__ import annotations

from functools import cache

import numpy as np

from quant.formats import FORMATS, LINE, PLACES, ROWS, Coded
from quant.half import TOO_LARGE, half_bits, half_value
from quant.jit import inner, parallel_kernel, prange
from quant.search import Candidates, best_scale, best_stored, candidates, encode, sum_up, sum_up_weighted

# Start scales, (lowest, highest, how many): more of them, or over a wider range, gain less than 0.04 dB.
_START = {"q3": (0.8, 1.2, 4), "q4": (0.7, 1.2, 8), "q4c": (0.7, 1.2, 8), "q5": (0.8, 1.3, 16), "q6": (0.8, 1.3, 32)}
_LINE_WORDS = np.uint64(LINE // 4)
_PLACES = np.array(PLACES)


def pack_coded(
    form: Coded, weights: np.ndarray, out: np.ndarray, sums: np.ndarray, importance: np.ndarray | None = None
) -> bool:
    """Search books and scales of each group and write the tiles; False where a weight is not finite or too large.

    Shapes: weights [R, C] f32 · out [ceil(R / 16), tile_bytes] u8, zeroed · sums [ceil(R / 16), 2] f64: squares of each
    tile's errors and weights are added, all alike · importance [C] f32 of the inputs, above 0; all alike if None
    """
    cols = weights.shape[1]
    width = -(-cols // form.width) * form.width
    if importance is not None:
        importance = np.concatenate((importance, np.zeros(width - cols, np.float32)))
    choice, code_bits = _candidates(form.name), form.code_bits
    return bool(
        _coded(
            weights, out, out.view(np.uint32), sums, form.books.astype(np.float32),
            choice.levels.reshape(-1), choice.books, choice.codes,
            form.group, form.segment or width, width, form.head_bytes(cols), form.block_bytes,
            form.book_bits, np.float32(2.0**form.exponent), np.float32(form.largest_scale), code_bits, importance,
        )
    )  # fmt: skip


@cache
def _candidates(name: str) -> Candidates:
    form = FORMATS[name]
    assert isinstance(form, Coded)
    return candidates(form, *_START[name])


@parallel_kernel
def _coded(
    weights, out, words, sums, values, levels, books, nearest,
    group, segment, width, head, block_bytes, book_bits, power, largest, code_bits, importance,
):  # fmt: skip
    """Shapes: weights [R, C] f32 · out [tiles, tile_bytes] u8, words the same as u32 · sums [tiles, 2] f64
            values [books, levels of one] f32 -> whether all fits

    levels (flat), books, nearest: see `Candidates` · width: C in whole blocks · power: 2^exponent
    importance: None, for which a kernel without it is compiled, or [width] f32
    """
    rows, cols = weights.shape
    bad = 0
    for t in prange(out.shape[0]):
        x, codes = np.zeros(width, np.float32), np.zeros(width, np.uint8)
        for r in range(min(ROWS, rows - ROWS * t)):
            finite = True
            for c in range(cols):
                x[c] = weights[ROWS * t + r, c]
                finite &= abs(x[c]) < np.float32(np.inf)
            if not finite:
                bad += 1
                continue
            codes[:] = np.uint8(0)
            fits = _row(
                x, cols, codes, out[t], r, sums[t], values, levels, books, nearest,
                group, segment, head, block_bytes, book_bits, power, largest, importance,
            )  # fmt: skip
            if not fits:
                bad += 1
            quads, start, block_words = codes.view(np.uint32), np.uint64(head // 4), np.uint64(block_bytes // 4)
            if code_bits == 3:
                _place_threes(quads, words[t], start, block_words, r)
            elif code_bits == 4:
                _place_fours(quads, words[t], start, block_words, np.uint64(group // 8), r)
            else:
                _place_wide(quads, words[t], start + np.uint64(r), block_words, np.uint64(code_bits - 4))
    return bad == 0


@inner
def _row(
    x, cols, codes, tile, r, measured, values, levels, books, nearest,
    group, segment, head, block_bytes, book_bits, power, largest, importance,
):  # fmt: skip
    """Super-scales and meta bytes of row r into its tile, codes into `codes`; False where a super-scale is too big."""
    n = books.size
    most = min(segment, x.size) // group
    sums, peaks, keys = np.empty((most, 2 * n), np.float32), np.empty(most, np.float32), np.empty(n, np.int32)
    for start in range(0, x.size, segment):
        groups = min(segment, x.size - start) // group
        top = np.float32(0)
        for g in range(groups):
            at = start + g * group
            if importance is None:
                peaks[g] = sum_up(x[at : at + group], levels, n, sums[g])
            else:
                peaks[g] = sum_up_weighted(x[at : at + group], importance[at : at + group], levels, n, sums[g])
            if peaks[g] > 0:
                top = max(top, peaks[g] * best_scale(sums[g], n, keys))
        bits = half_bits(top * power / largest)
        if bits >= TOO_LARGE:
            return False
        at = 2 * (ROWS * (start // segment) + r)
        tile[at], tile[at + 1] = np.uint8(bits & 0xFF), np.uint8(bits >> 8)
        unit = half_value(bits) / power
        for g in range(groups):
            at = start + g * group
            squares = _squares(x[at : at + group])
            measured[1] += squares
            if peaks[g] == 0 or unit == 0:
                measured[0] += squares
                continue
            best, s = best_stored(sums[g], n, unit / peaks[g], largest, keys)
            if s == 0:
                measured[0] += squares
                continue
            book = books[best]
            number = at // group
            tile[head + number // 4 * block_bytes + ROWS * (number % 4) + r] = np.uint8((s << book_bits | book) & 0xFF)
            scale, some = np.float32(s) * unit, slice(at, at + group)
            encode(x[some], nearest[book], scale, codes[some])
            measured[0] += _error(x[at : min(at + group, cols)], codes[some], values[book], scale)
    return True


@inner
def _squares(x):
    """Of weights, added up."""
    total = np.float32(0)
    for k in range(x.size):
        total += x[k] * x[k]
    return total


@inner
def _error(x, codes, values, scale):
    """The squares of what codes leave of the weights; what padding stands for does not matter."""
    total = np.float32(0)
    for k in range(x.size):
        rest = x[k] - values[codes[k]] * scale
        total += rest * rest
    return total


@inner
def _place_fours(quads, words, start, block_words, strips, r):
    """Codes of row r, four in a u32, into strips of 32 inputs: quad j in the low nibbles of word j, 4 + j above it.

    A block has `strips` of them. Indices are unsigned: a signed one is asked whether it counts from the end.
    """
    four, place = np.uint64(4), np.uint64(_PLACES[r])
    for i in range(np.uint64(quads.size // 8)):
        at = start + i // strips * block_words + _LINE_WORDS * (np.uint64(1) + four * (i % strips)) + four * place
        for j in range(np.uint64(4)):
            q = np.uint64(8) * i + j
            words[at + j] = quads[q] | quads[q + four] << np.uint32(4)


@inner
def _place_threes(quads, words, start, block_words, r):
    """The same for q3, whose rows in places 6 and 7 of each eight are the spare bits of those in even and odd ones."""
    two, four, place = np.uint64(2), np.uint64(4), np.uint64(_PLACES[r] % 8)
    bit = np.uint32(0x01010101)
    for i in range(np.uint64(quads.size // 8)):
        at = start + i // two * block_words + _LINE_WORDS * (np.uint64(1) + np.uint64(3) * (i % two))
        at += np.uint64(6 * four) * np.uint64(r // 8)
        for j in range(np.uint64(4)):
            q = np.uint64(8) * i + j
            both = quads[q] | quads[q + four] << np.uint32(4)
            if place < np.uint64(6):
                words[at + four * place + j] |= both
            else:
                for b in range(3):
                    spare = (both >> np.uint32(b) & (bit | bit << np.uint32(4))) << np.uint32(3)
                    words[at + four * (two * np.uint64(b) + place % two) + j] |= spare


@inner
def _place_wide(quads, words, lane, block_words, more):
    """Codes of q5 and q6 into a row's lane of the code lines: lower nibbles, then the `more` bits above."""
    one, two, sixteen = np.uint64(1), np.uint64(2), np.uint64(16)
    low, above = np.uint32(0x0F0F0F0F), np.uint32(0x03030303)
    for i in range(np.uint64(quads.size)):
        q = i % sixteen
        at = i // sixteen * block_words + lane + _LINE_WORDS
        words[at + _LINE_WORDS * (q // two)] |= (quads[i] & low) << np.uint32((q & one) << two)
        bit = q * more
        line = np.uint64(8) + bit // np.uint64(8)
        words[at + _LINE_WORDS * line] |= (quads[i] >> np.uint32(4) & above) << np.uint32(bit & np.uint64(7))
