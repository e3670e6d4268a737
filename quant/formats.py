"""Block formats: how a matrix's weights lie in bytes, in the order in which kernels read them.

A matrix is cut into tiles of 16 rows, and a tile into blocks of 64 inputs; byte lane r of every line belongs to row
r, so that a kernel computes 16 outputs at once and never sums across a vector. `quant/FORMAT.md` has the tables;
the `unpack` methods here are the same in NumPy. Rows and inputs are padded with zeros to whole tiles and blocks.
Most formats round any weights to what they can store (`Encodable`); k4 holds codes that a source already has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from quant.codebooks import Q3_BOOKS, Q4_BOOKS, Q4C_BOOKS, Q5_BOOK, Q6_BOOK

ROWS = 16  # rows of a tile
BLOCK = 64  # inputs of a block
SEGMENT = 512  # inputs that share a super-scale of scales of few bits
LINE = 64  # bytes; every part of a tile is a whole number of lines
STRIP = 32  # inputs whose codes lie row by row in formats with several books
# Where in a strip a row is: rows r and r + 4 are the two lanes of a 32-byte vector, whose sums then come out in order.
PLACES = [0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15]


def blocks(cols: int) -> int:
    """Blocks that hold `cols` inputs."""
    return -(-cols // BLOCK)


def tiles(rows: int) -> int:
    """Tiles that hold `rows` rows."""
    return -(-rows // ROWS)


class Format(ABC):
    """One way to store a matrix; `id` is how kernels are told."""

    name: ClassVar[str]
    id: ClassVar[int]
    lossless_from: ClassVar[tuple[str, ...]] = ()  # safetensors dtypes that it stores exactly

    @abstractmethod
    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""

    def matrix_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a whole matrix, padding included."""
        return tiles(rows) * self.tile_bytes(cols)

    def bits_per_weight(self, rows: int, cols: int) -> float:
        """Stored bits for each weight of a matrix."""
        return 8 * self.matrix_bytes(rows, cols) / (rows * cols)

    @abstractmethod
    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""


class Encodable(Format):
    """A format that takes weights as floats and rounds them to the nearest that it stores."""

    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Quantize rows: [R, C] f32 -> [ceil(R / 16), tile_bytes] u8; raises as `pack_measured` does."""
        return self.pack_measured(weights)[0]

    def pack_measured(self, weights: np.ndarray, importance: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(the tiles, each one's squared error and squared weights): [ceil(R / 16), tile_bytes] u8 and [.., 2] f64.

        `importance` [C] f32, above 0, is how much an error at each input counts in the search of formats with books.
        Raises ValueError where a weight is not finite or too large for the format's scales.
        """
        from quant import pack

        weights = np.ascontiguousarray(weights, np.float32)
        out = np.zeros((tiles(weights.shape[0]), self.tile_bytes(weights.shape[1])), np.uint8)
        sums = np.zeros((len(out), 2))
        if not pack.PACK[self.name](weights, out, sums, importance):
            raise ValueError(f"a weight is not finite or too large for {self.name}")
        return out, sums


class Coded(Encodable):
    """Codes into books of levels: W = 2^-exponent D s books[c][code].

    c and s belong to a row and a group of inputs, D, an fp16 of at least 0, to a row and a segment of inputs. A tile is
    D of 16 rows for each segment (32 bytes each, padded to a line), then blocks of 4 groups: a line of meta bytes
    s << book_bits | c (byte 16 g + r), then lines of codes. Where there are several books, these are strips of 32
    inputs: 16 bytes a row, the rows in the order of `PLACES`, byte i holding the codes of inputs i and 16 + i.
    """

    books: ClassVar[np.ndarray]  # [2^book_bits, levels] i8
    book_bits: ClassVar[int]
    exponent: ClassVar[int]  # keeps D near the largest weight, away from fp16's subnormal numbers
    code_lines: ClassVar[int]  # of a block
    group: ClassVar[int] = 16  # inputs that share a meta byte
    segment: ClassVar[int | None] = None  # inputs that share D; None: a whole row

    @property
    def width(self) -> int:
        """Inputs of a block."""
        return LINE // ROWS * self.group

    @property
    def block_bytes(self) -> int:
        """Bytes of a block."""
        return (1 + self.code_lines) * LINE

    @property
    def code_bits(self) -> int:
        """Bits of a code. Of 3, six of each 8 rows are stored, and their spare bits are the other two's codes."""
        return self.books.shape[1].bit_length() - 1

    @property
    def largest_scale(self) -> int:
        """The largest s; the smallest is its negative."""
        return (128 >> self.book_bits) - 1

    def segments(self, cols: int) -> int:
        """How many D a row has."""
        return 1 if self.segment is None else -(-cols // self.segment)

    def head_bytes(self, cols: int) -> int:
        """Bytes of a tile before its blocks."""
        return -(-self.segments(cols) * 2 * ROWS // LINE) * LINE

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return self.head_bytes(cols) + -(-cols // self.width) * self.block_bytes

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        n_tiles, segments = len(packed), self.segments(cols)
        head = np.ascontiguousarray(packed[:, : segments * 2 * ROWS]).view(np.float16).reshape(n_tiles, segments, ROWS)
        body = packed[:, self.head_bytes(cols) :].reshape(n_tiles, -1, self.block_bytes)
        meta = body[:, :, :LINE].view(np.int8).reshape(n_tiles, -1, ROWS).transpose(0, 2, 1)  # [tile, row, group]
        codes = self._codes(body[:, :, LINE:]).transpose(0, 2, 1, 3).reshape(*meta.shape, self.group)
        levels = self.books[(meta & len(self.books) - 1)[..., None], codes].astype(np.float32)
        weights = (levels * (meta >> self.book_bits)[..., None]).reshape(n_tiles * ROWS, -1)
        unit = head.astype(np.float32).transpose(0, 2, 1).reshape(len(weights), segments) * 2.0**-self.exponent
        wide = self.segment or weights.shape[1]
        return (weights * np.repeat(unit, wide, axis=1)[:, : weights.shape[1]])[:rows, :cols].astype(np.float32)

    def _codes(self, lines: np.ndarray) -> np.ndarray:
        """Bytes of code lines [tiles, blocks, bytes] -> codes [tiles, blocks, 16, inputs]."""
        strips = lines.reshape(*lines.shape[:2], -1, ROWS, STRIP // 2)[:, :, :, PLACES]
        return _by_row(np.concatenate((strips & 15, strips >> 4), axis=4))


class Q4(Coded):
    """4-bit codes into one of four books, s of 6 bits."""

    name, id = "q4", 3
    books, book_bits, exponent, code_lines, segment = Q4_BOOKS, 2, 10, 8, SEGMENT


class Q4C(Coded):
    """q4 with groups of 32 inputs, so that blocks are of 128, and one D a row: 4.25 bits a weight."""

    name, id = "q4c", 8
    books, book_bits, exponent, code_lines, group = Q4C_BOOKS, 2, 10, 16, 32


class Q3(Coded):
    """3-bit codes into one of eight books, s of 5 bits.

    A strip has 6 of each 8 rows, in bits 0..2 and 4..6 of their bytes. Bits 3 and 7 of the 3 rows in even places make
    the bytes that a row in place 6 would have, those in odd places the row in place 7.
    """

    name, id = "q3", 5
    books, book_bits, exponent, code_lines, segment = Q3_BOOKS, 3, 10, 6, SEGMENT

    def _codes(self, lines: np.ndarray) -> np.ndarray:
        eights = lines.reshape(*lines.shape[:2], -1, 3, 2, STRIP // 2)
        spare = (eights & 0x88) >> 3
        last = spare[:, :, :, 0] | spare[:, :, :, 1] << 1 | spare[:, :, :, 2] << 2
        return super()._codes(np.concatenate((eights, last[:, :, :, None]), axis=3)) & 7


class Q5(Coded):
    """5-bit codes into a book, s of 8 bits: 8 lines of nibbles, as k4 has them, then 2 of fifth bits.

    The fifth bits of quad i of inputs are bit i % 8 of line i // 8.
    """

    name, id = "q5", 6
    books, book_bits, exponent, code_lines = Q5_BOOK, 0, 14, 10

    def _codes(self, lines: np.ndarray) -> np.ndarray:
        return _by_row(_nibbles(lines[:, :, : 8 * LINE]) | _fields(lines[:, :, 8 * LINE :], 1) << 4)


class Q6(Coded):
    """6-bit codes into a book, s of 8 bits: 8 lines of nibbles, then 4 of bits 4 and 5, at 2 (i % 4) of line i // 4."""

    name, id = "q6", 7
    books, book_bits, exponent, code_lines = Q6_BOOK, 0, 14, 12

    def _codes(self, lines: np.ndarray) -> np.ndarray:
        return _by_row(_nibbles(lines[:, :, : 8 * LINE]) | _fields(lines[:, :, 8 * LINE :], 2) << 4)


class K4(Format):
    """4-bit codes with a bf16 scale a group of 32 inputs, as a source has them: W = scale * (code - 8).

    Blocks of 576 bytes: a line of bf16 scales (byte 32 g + 2 r), then 8 lines of codes. Byte 4 r + j of line n is of
    inputs 8 n + j, in the low nibble, and 8 n + 4 + j. Padding has scale 0.
    `quant.pack.pack_k4` copies a source's codes and scales; nothing is rounded, and floats cannot be stored.
    """

    name, id = "k4", 4
    lossless_from = ("INT4",)
    ZERO = 8  # the code that stands for 0
    BLOCK_BYTES = LINE + 8 * LINE

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return blocks(cols) * self.BLOCK_BYTES

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        n_tiles, n_blocks = len(packed), blocks(cols)
        body = packed.reshape(n_tiles, n_blocks, self.BLOCK_BYTES)
        bits = np.ascontiguousarray(body[:, :, :LINE]).view(np.uint16).astype(np.uint32) << 16
        scales = bits.view(np.float32).reshape(n_tiles, n_blocks, 2, ROWS)
        codes = _by_row(_nibbles(body[:, :, LINE:])).reshape(n_tiles, n_blocks, ROWS, 2, BLOCK // 2)
        weights = (codes.astype(np.float32) - self.ZERO) * scales.transpose(0, 1, 3, 2)[..., None]
        weights = weights.reshape(n_tiles, n_blocks, ROWS, BLOCK).transpose(0, 2, 1, 3)
        return weights.reshape(n_tiles * ROWS, n_blocks * BLOCK)[:rows, :cols].copy()


class Q8(Encodable):
    """8-bit codes with an fp16 scale a group of 32 inputs: W = scale * code.

    Blocks of 1088 bytes: a line of fp16 scales (byte 32 g + 2 r), then 16 lines of codes, line i, byte 4 r + j
    being input 4 i + j.
    """

    name, id = "q8", 2
    BLOCK_BYTES = LINE + 16 * LINE

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return blocks(cols) * self.BLOCK_BYTES

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        n_tiles, n_blocks = len(packed), blocks(cols)
        body = packed.reshape(n_tiles, n_blocks, self.BLOCK_BYTES)
        scales = np.ascontiguousarray(body[:, :, :LINE]).view(np.float16).reshape(n_tiles, n_blocks, 2, ROWS)
        codes = body[:, :, LINE:].view(np.int8).reshape(n_tiles, n_blocks, 2, 8, ROWS, 4)
        weights = codes.astype(np.float32) * scales.astype(np.float32)[:, :, :, None, :, None]
        return weights.transpose(0, 4, 1, 2, 3, 5).reshape(n_tiles * ROWS, n_blocks * BLOCK)[:rows, :cols].copy()


class BF16(Encodable):
    """bfloat16, input by input: 32 bytes hold one input's weight in each of 16 rows."""

    name, id = "bf16", 1
    lossless_from = ("BF16",)

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return blocks(cols) * BLOCK * ROWS * 2

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        bits = packed.view(np.uint16).astype(np.uint32) << 16
        return _rows_of_tiles(bits.view(np.float32), rows, cols)


class F32(Encodable):
    """float32, input by input: a line holds one input's weight in each of 16 rows."""

    name, id = "f32", 0
    lossless_from = ("BF16", "F16", "F32")

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return blocks(cols) * BLOCK * ROWS * 4

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        return _rows_of_tiles(packed.view(np.float32), rows, cols)


def _nibbles(lines: np.ndarray) -> np.ndarray:
    """Lines of 4-bit codes of quads [tiles, blocks, bytes] -> codes [tiles, blocks, quads, 16, 4]."""
    return _fields(lines, 4)


def _fields(lines: np.ndarray, bits: int) -> np.ndarray:
    """The same for small numbers of so many bits, the first in the lowest."""
    quads = lines.reshape(*lines.shape[:2], -1, ROWS, 4)
    fields = [quads >> at & (1 << bits) - 1 for at in range(0, 8, bits)]
    return np.stack(fields, axis=3).reshape(*lines.shape[:2], -1, ROWS, 4)


def _by_row(codes: np.ndarray) -> np.ndarray:
    """Codes of quads or strips [tiles, blocks, n, 16, inputs] -> [tiles, blocks, 16, n * inputs]."""
    return codes.transpose(0, 1, 3, 2, 4).reshape(*codes.shape[:2], ROWS, -1)


def _rows_of_tiles(values: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """[tiles, C * 16] input by input -> [rows, cols]."""
    return values.reshape(len(values), -1, ROWS).transpose(0, 2, 1).reshape(len(values) * ROWS, -1)[:rows, :cols].copy()


ENCODABLE: dict[str, Encodable] = {f.name: f for f in (F32(), BF16(), Q8(), Q6(), Q5(), Q4(), Q4C(), Q3())}
FORMATS: dict[str, Format] = {**ENCODABLE, K4.name: K4()}


@dataclass(frozen=True)
class Matrix:
    """A stored matrix: tiles [ceil(rows / 16), tile_bytes] u8, perhaps a read-only map of a file."""

    format: Format
    rows: int
    cols: int
    tiles: np.ndarray

    def unpack(self) -> np.ndarray:
        """The weights as [rows, cols] f32."""
        return self.format.unpack(self.tiles, self.rows, self.cols)
