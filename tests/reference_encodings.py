"""Slow, obvious twins of the source encodings, one weight at a time, and tiny checkpoints stored in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import write_safetensors

DTYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "int8": "I8"}
INT4_CONFIG: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": 32,
                "actorder": None,
            },
        }
    },
}


def e4m3(code: int) -> float:
    """The number that a float8 e4m3 code stands for, from its definition."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


def bf16_bits(values: np.ndarray) -> np.ndarray:
    """Float32 cut to bfloat16, as u16."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def bf16_value(bits: int) -> np.float32:
    """The number that a bfloat16's bits stand for."""
    return np.frombuffer(b"\0\0" + int(bits).to_bytes(2, "little"), "<f4")[0]


def fp8_weights(codes: np.ndarray, scales: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """codes [R, C] u8, scales [ceil, ceil] f32 -> [R, C] f32."""
    out = np.empty(codes.shape, np.float32)
    for r, c in np.ndindex(codes.shape):
        out[r, c] = np.float32(e4m3(int(codes[r, c]))) * scales[r // block[0], c // block[1]]
    return out


def pack_words(values: np.ndarray) -> np.ndarray:
    """Whole numbers -8..7 [R, C] -> words [R, C / 8] i32, the first in the lowest bits."""
    words = np.zeros((len(values), values.shape[1] // 8), np.int64)
    for r, c in np.ndindex(values.shape):
        words[r, c // 8] |= (int(values[r, c]) + 8) << 4 * (c % 8)
    return words.astype(np.uint32).view(np.int32)


def int4_weights(words: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """words [R, C / 8] i32, scales [R, C / 32] u16 bf16 bits -> [R, C] f32."""
    out = np.empty((len(words), 8 * words.shape[1]), np.float32)
    for r, c in np.ndindex(out.shape):
        code = int(words.view(np.uint32)[r, c // 8]) >> 4 * (c % 8) & 15
        out[r, c] = np.float32(code - 8) * bf16_value(scales[r, c // 32])
    return out


def write_checkpoint(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    """A checkpoint: u8 arrays are fp8 codes, u16 arrays bf16 bits, a pair (dtype, array) whatever it says."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header, data = {}, bytearray()
    for name, value in tensors.items():
        dtype, array = value if isinstance(value, tuple) else ("", value)
        dtype = dtype or {"uint8": "F8_E4M3", "uint16": "BF16"}.get(array.dtype.name) or DTYPES[array.dtype.name]
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    write_safetensors(folder / "model.safetensors", header, data)
    return folder
