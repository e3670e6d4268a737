"""float16 numbers of at least 0 inside kernels, which know float32 only."""

from __future__ import annotations

import numpy as np

from quant.jit import inner

TOO_LARGE = np.uint16(0x7C00)  # these bits and above


@inner
def half_bits(x):
    """The bits of a float32 of at least 0 rounded to float16, to nearest even; TOO_LARGE and above: it does not fit."""
    bits = np.float32(x).view(np.uint32)
    if bits < np.uint32(0x38800000):  # below 2^-14, where float16 is a fixed-point number of 2^-24
        return np.uint16(np.rint(np.float32(x) * np.float32(16777216.0)))
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    return np.uint16(min((bits - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13), np.uint32(0x7C00)))


@inner
def half_value(bits):
    """The float32 value of the bits of a float16 of at least 0."""
    if bits < 0x400:
        return np.float32(bits) * np.float32(2.0**-24)
    return (np.uint32((np.uint32(bits) << np.uint32(13)) + np.uint32(0x38000000))).view(np.float32)
