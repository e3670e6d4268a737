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

from quant.codebooks import Q4_BOOKS

ROWS = 16  # rows of a tile
BLOCK = 64  # inputs of a block
SEGMENT = 512  # inputs that share a q4 super-scale
LINE = 64  # bytes; every part of a tile is a whole number of lines


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

    def pack_measured(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the tiles, each one's squared error and squared weights): [ceil(R / 16), tile_bytes] u8 and [.., 2] f64.

        Raises ValueError where a weight is not finite or too large for the format's scales.
        """
        from quant import pack

        weights = np.ascontiguousarray(weights, np.float32)
        out = np.zeros((tiles(weights.shape[0]), self.tile_bytes(weights.shape[1])), np.uint8)
        sums = np.zeros((len(out), 2))
        if not pack.PACK[self.name](weights, out, sums):
            raise ValueError(f"a weight is not finite or too large for {self.name}")
        return out, sums


class Q4(Encodable):
    """4-bit codes into one of four codebooks: W = 2^-12 D s book[c][code], c and s (6 bits) a group of 16 inputs.

    Tile: fp16 D of 16 rows for each 512 inputs (32 bytes each, padded to a line), then blocks of 576 bytes:
    a line of meta bytes s << 2 | c (byte 16 g + r), then 8 lines of codes, line 2 g + h, byte 4 r + j,
    low nibble input 16 g + 8 h + j, high nibble 4 further.
    """

    name, id = "q4", 3
    EXPONENT = 12  # keeps D near the largest weight, away from fp16's subnormal numbers
    BLOCK_BYTES = LINE + 8 * LINE

    @staticmethod
    def head_bytes(cols: int) -> int:
        """Bytes of a tile's super-scales."""
        return -(-(-(-cols // SEGMENT) * 2 * ROWS) // LINE) * LINE

    def tile_bytes(self, cols: int) -> int:
        """Bytes of a tile of 16 rows by `cols` inputs."""
        return self.head_bytes(cols) + blocks(cols) * self.BLOCK_BYTES

    def unpack(self, packed: np.ndarray, rows: int, cols: int) -> np.ndarray:
        """The weights that stored tiles stand for: -> [rows, cols] f32."""
        n_tiles, n_blocks, n_segments = len(packed), blocks(cols), -(-cols // SEGMENT)
        head = np.ascontiguousarray(packed[:, : n_segments * 2 * ROWS])
        supers = head.view(np.float16).reshape(n_tiles, n_segments, ROWS)
        body = packed[:, self.head_bytes(cols) :].reshape(n_tiles, n_blocks, self.BLOCK_BYTES)
        meta = body[:, :, :LINE].view(np.int8).reshape(n_tiles, n_blocks, 4, ROWS)  # [tile, block, group, row]
        levels = Q4_BOOKS[(meta & 3)[..., None], _nibbles(body[:, :, LINE:])].astype(np.float32)
        weights = levels * (meta >> 2)[..., None]
        weights = weights.transpose(0, 3, 1, 2, 4).reshape(n_tiles * ROWS, n_blocks * BLOCK)
        scale = supers.astype(np.float32).transpose(0, 2, 1).reshape(n_tiles * ROWS, n_segments) * 2.0**-self.EXPONENT
        return (weights * np.repeat(scale, SEGMENT, axis=1)[:, : weights.shape[1]])[:rows, :cols].astype(np.float32)


class K4(Format):
    """4-bit codes with a bf16 scale a group of 32 inputs, as a source has them: W = scale * (code - 8).

    Blocks of 576 bytes: a line of bf16 scales (byte 32 g + 2 r), then 8 lines of codes as in q4. Padding has scale 0.
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
        scales = np.repeat(bits.view(np.float32).reshape(n_tiles, n_blocks, 2, ROWS), 2, axis=2)
        weights = (_nibbles(body[:, :, LINE:]).astype(np.float32) - self.ZERO) * scales[..., None]
        return weights.transpose(0, 3, 1, 2, 4).reshape(n_tiles * ROWS, n_blocks * BLOCK)[:rows, :cols].copy()


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
    """8 lines of 4-bit codes a block, [tiles, blocks, 512] -> [tiles, blocks, 4 groups, 16 rows, 16 inputs]."""
    halves = lines.reshape(*lines.shape[:2], 4, 2, ROWS, 4)  # [tile, block, group, half, row, j]
    codes = np.stack((halves & 15, halves >> 4), axis=5)  # [tile, block, group, half, row, nibble, j]
    return codes.transpose(0, 1, 2, 4, 3, 5, 6).reshape(*lines.shape[:2], 4, ROWS, 16)


def _rows_of_tiles(values: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """[tiles, C * 16] input by input -> [rows, cols]."""
    return values.reshape(len(values), -1, ROWS).transpose(0, 2, 1).reshape(len(values) * ROWS, -1)[:rows, :cols].copy()


ENCODABLE: dict[str, Encodable] = {f.name: f for f in (F32(), BF16(), Q8(), Q4())}
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
