"""The levels that 4-bit codes stand for.

Trained once on Gaussian blocks with the search of `quant/pack.py` and rounded to int8: within 0.03 dB of books tuned
to a model, so they are constants of the format and never trained for a tensor.
"""

from __future__ import annotations

import numpy as np

# Four shapes to choose from for each group: even, centred, and two lopsided ones (a negative scale mirrors each).
Q4_BOOKS = np.array(
    [
        [-127, -108, -89, -71, -55, -41, -27, -12, 4, 17, 31, 45, 60, 75, 92, 112],
        [-119, -88, -68, -52, -38, -25, -13, -1, 10, 23, 36, 50, 65, 81, 105, 127],
        [-127, -92, -75, -58, -45, -33, -22, -12, -3, 8, 20, 32, 46, 62, 83, 120],
        [-115, -70, -52, -39, -27, -16, -7, 2, 11, 19, 29, 39, 51, 65, 90, 127],
    ],
    np.int8,
)
