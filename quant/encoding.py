"""How a checkpoint stores one matrix: plainly, in fp8 with a grid of scales, or in int4 with a scale for each 32.

Which of them it is follows from the tensors that are there, not from the family nor from a list of exceptions; the
config only says how large the blocks and groups are. Making one checks every shape and reads no data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from quant.errors import CheckpointError, UnsupportedError
from quant.not_finite import NotFinite, joined
from quant.not_finite import find as find_not_finite
from quant.quantization_config import QuantizationConfig
from quant.safetensors_file import AGAIN, DTYPE_BYTES, TensorInfo

Read = Callable[[TensorInfo, int, int], np.ndarray]  # (tensor, first byte, bytes) -> u8
PLAIN = ("BF16", "F16", "F32")
FP8 = "F8_E4M3"
INT4 = "INT4"  # no dtype of safetensors: two codes a byte, packed in words
GROUP = 32  # inputs that share a scale of int4 rows
_PIECE = 64 << 20  # bytes of float32 rows held at a time in a search for what is not finite
_WHOLE = ("I64", "I32", "U64", "U32")


class Encoding(ABC):
    """One matrix as stored. `dtype` is what recipes go by, `shape` that of the weights, `tensors` all that hold it."""

    def __init__(self, dtype: str, shape: tuple[int, ...], tensors: tuple[TensorInfo, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self.tensors = tensors

    @abstractmethod
    def rows(self, read: Read, start: int, stop: int, expert: int, out: np.ndarray) -> None:
        """Decode rows start..stop of a matrix, or of one expert's in a fused [E, R, C]: out [stop - start, C] f32."""

    def not_finite(self, read: Read, expert: int) -> NotFinite | None:
        """What of the whole matrix, or of one expert's in a fused [E, R, C], is not a finite number."""
        n_rows, cols = self.shape[-2:]
        step = max(1, _PIECE // (4 * cols))
        found = None
        for start in range(0, n_rows, step):
            decoded = np.empty((min(step, n_rows - start), cols), np.float32)
            self.rows(read, start, start + len(decoded), expert, decoded)
            found = joined(found, find_not_finite(self.tensors[0].name, "weight", decoded, start, self._which(expert)))
        return found

    def _which(self, expert: int) -> int | None:
        return expert if len(self.shape) > 2 else None

    def _rows_of(self, read: Read, info: TensorInfo, start: int, stop: int, expert: int) -> np.ndarray:
        """The bytes of rows start..stop of one of the tensors: -> [stop - start, bytes of a row] u8."""
        n_rows, cols = info.shape[-2:]
        width = cols * DTYPE_BYTES[info.dtype]
        return read(info, (expert * n_rows + start) * width, (stop - start) * width).reshape(stop - start, width)


class Plain(Encoding):
    """BF16, F16 or F32, a matrix or of any other shape."""

    def __init__(self, info: TensorInfo) -> None:
        super().__init__(info.dtype, info.shape, (info,))
        self.info = info

    def rows(self, read: Read, start: int, stop: int, expert: int, out: np.ndarray) -> None:
        """Decode rows: out [stop - start, C] f32."""
        floats(self.dtype, self._rows_of(read, self.info, start, stop, expert), out)

    def values(self, read: Read) -> np.ndarray:
        """The whole tensor in its own shape, f32."""
        out = np.empty(self.shape, np.float32)
        floats(self.dtype, read(self.info, 0, self.info.bytes), out)
        return out


class Fp8(Encoding):
    """Float8 e4m3 codes [.., R, C] times a scale for each block of `block` rows and inputs, the last ones ragged."""

    def __init__(self, codes: TensorInfo, scales: TensorInfo, block: tuple[int, int]) -> None:
        super().__init__(FP8, codes.shape, (codes, scales))
        self.codes, self.scales, self.block = codes, scales, block
        if len(self.shape) not in (2, 3):
            raise UnsupportedError(
                f"tensor {codes.name!r} is {FP8} in {len(self.shape)} dimensions; matrices have 2, fused experts 3"
            )
        _expect_dtype(scales, ("F32", "BF16"))
        *lead, rows, cols = self.shape
        expected = (*lead, -(-rows // block[0]), -(-cols // block[1]))
        if scales.shape == expected:
            return
        if prod(scales.shape) == 1:
            raise UnsupportedError(
                f"tensor {scales.name!r} is one scale for a whole tensor; this version reads fp8 with a scale for "
                "each block, given by quantization_config.weight_block_size"
            )
        raise CheckpointError(
            f"tensor {scales.name!r} is {list(scales.shape)}, expected {list(expected)}: a scale for each "
            f"{block[0]} x {block[1]} of {list(self.shape)}",
            hint=AGAIN,
        )

    def rows(self, read: Read, start: int, stop: int, expert: int, out: np.ndarray) -> None:
        """Decode rows: out [stop - start, C] f32."""
        from quant import decode

        codes = self._rows_of(read, self.codes, start, stop, expert)
        decode.fp8(codes, self._grid(read, start, stop, expert), start % self.block[0], *self.block, out)

    def _grid(self, read: Read, start: int, stop: int, expert: int) -> np.ndarray:
        first, last = start // self.block[0], -(-stop // self.block[0])
        grid = np.empty((last - first, self.scales.shape[-1]), np.float32)
        floats(self.scales.dtype, self._rows_of(read, self.scales, first, last, expert), grid)
        return grid

    def not_finite(self, read: Read, expert: int) -> NotFinite | None:
        """What of the whole matrix is not a finite number: scales first, which make whole blocks of weights so."""
        grid = self._grid(read, 0, self.shape[-2], expert)
        found = find_not_finite(self.scales.name, "scale", grid, 0, self._which(expert))
        return found or super().not_finite(read, expert)


class Int4(Encoding):
    """4-bit codes, eight in a word [R, C / 8], least significant first: W = (code - 8) * scale [R, C / 32]."""

    def __init__(self, codes: TensorInfo, scales: TensorInfo, extents: TensorInfo | None) -> None:
        _expect_dtype(codes, ("I32",))
        _expect_dtype(scales, ("BF16",))
        if len(codes.shape) != 2:
            raise UnsupportedError(f"tensor {codes.name!r} is {list(codes.shape)}; packed matrices have 2 dimensions")
        rows, cols = codes.shape[0], 8 * codes.shape[1]
        super().__init__(INT4, (rows, cols), (codes, scales) if extents is None else (codes, scales, extents))
        self.codes, self.scales = codes, scales
        # What the extents [rows, inputs] would say is in the headers and in the plan already.
        if extents is not None and (extents.dtype not in _WHOLE or extents.shape != (2,)):
            raise CheckpointError(
                f"tensor {extents.name!r} is {list(extents.shape)} {extents.dtype}, expected 2 whole numbers"
            )
        if cols % GROUP or scales.shape != (rows, cols // GROUP):
            raise CheckpointError(
                f"tensor {codes.name!r} is {list(codes.shape)}, {rows} rows of {cols} inputs, but {scales.name!r} is "
                f"{list(scales.shape)}, expected a scale for each row and {GROUP} inputs",
                hint=AGAIN,
            )

    def rows(self, read: Read, start: int, stop: int, expert: int, out: np.ndarray) -> None:
        """Decode rows: out [stop - start, C] f32."""
        from quant import decode

        decode.int4(*self.raw(read, start, stop), out)

    def raw(self, read: Read, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows as stored: codes [n, C / 2] u8, the even input low, and scales [n, C / 32] u16, the bits of bf16."""
        scales = self._rows_of(read, self.scales, start, stop, 0).view("<u2")
        return self._rows_of(read, self.codes, start, stop, 0), scales

    def not_finite(self, read: Read, expert: int) -> NotFinite | None:
        """Which scales are not finite numbers; there is nothing else that could not be."""
        bits = self._rows_of(read, self.scales, 0, self.shape[0], 0)
        scales = np.empty(self.scales.shape, np.float32)
        floats(self.scales.dtype, bits, scales)
        return find_not_finite(self.scales.name, "scale", scales, 0, None)


def find(name: str, tensors: Mapping[str, TensorInfo], config: QuantizationConfig) -> Encoding:
    """The encoding of the matrix `name`; raises CheckpointError naming what is missing or wrong in its headers."""
    info, packed = tensors.get(name), tensors.get(name + "_packed")
    if info is None and packed is not None:
        config.check_int4(f"tensor {packed.name!r}")
        return Int4(packed, _scale(name, "_scale", packed, tensors), tensors.get(name + "_shape"))
    if info is None:
        config.check_method(f"tensor {name!r} is missing")
        raise CheckpointError(f"tensor {name!r} is missing", hint=AGAIN)
    if info.dtype in PLAIN:
        return Plain(info)
    if info.dtype == FP8:
        if name + "_scale_inv" not in tensors and name + "_scale" in tensors:
            raise UnsupportedError(
                f"tensor {name!r} is {FP8} with {name + '_scale'!r}; this version reads fp8 with a scale for each "
                f"block, {name + '_scale_inv'!r}, given by quantization_config.weight_block_size"
            )
        return Fp8(info, _scale(name, "_scale_inv", info, tensors), config.fp8_block)
    config.check_method(f"tensor {name!r} is {info.dtype}")
    raise UnsupportedError(
        f"tensor {name!r} in {info.file.name} is {info.dtype}; "
        f"this version reads {', '.join(PLAIN)}, {FP8} and packed {INT4}"
    )


def floats(dtype: str, raw: np.ndarray, out: np.ndarray) -> None:
    """Decode the bytes of a plain dtype: raw u8, out as many f32 in any shape."""
    from quant import decode

    flat = out.reshape(-1)
    if dtype == "F32":
        flat[:] = raw.reshape(-1).view("<f4")
    else:
        (decode.bf16 if dtype == "BF16" else decode.f16)(raw.reshape(-1).view("<u2"), flat.view(np.uint32))


def _scale(name: str, suffix: str, codes: TensorInfo, tensors: Mapping[str, TensorInfo]) -> TensorInfo:
    if name + suffix not in tensors:
        raise CheckpointError(
            f"tensor {name + suffix!r} is missing: the scales of {codes.name!r}, which is {codes.dtype}", hint=AGAIN
        )
    return tensors[name + suffix]


def _expect_dtype(info: TensorInfo, dtypes: tuple[str, ...]) -> None:
    if info.dtype not in dtypes:
        raise UnsupportedError(f"tensor {info.name!r} is {info.dtype}; this version reads {' or '.join(dtypes)} there")
