"""Source encodings: bytes as a checkpoint stores them, to float32.

One function an encoding, by safetensors dtype; each takes raw bytes and returns as many float32 values.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _bf16(raw: np.ndarray) -> np.ndarray:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _f16(raw: np.ndarray) -> np.ndarray:
    return raw.view("<f2").astype(np.float32)


def _f32(raw: np.ndarray) -> np.ndarray:
    return raw.view("<f4").astype(np.float32, copy=False)


DECODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"BF16": _bf16, "F16": _f16, "F32": _f32}
