"""The levels that codes stand for.

Trained once on Gaussian blocks with the search of `quant/search.py`, as whole numbers: within 0.03 dB of books tuned to
a model, so they are constants of the formats and never trained for a tensor. A negative scale mirrors a book. Levels
of up to 4 bits are within -32 .. 32, which lets 16 products with int8 be added up in pairs of int16; up to 127 they
would gain 0.02 dB (q4, q4c).
"""

from __future__ import annotations

import numpy as np

# Four shapes to choose from for each group: even, centred, and two lopsided ones.
Q4_BOOKS = np.array(
    [
        [-29, -24, -20, -16, -12, -8, -5, -2, 1, 4, 7, 10, 13, 17, 21, 25],
        [-25, -19, -15, -12, -9, -6, -3, 0, 3, 5, 8, 11, 14, 18, 25, 30],
        [-27, -22, -17, -14, -11, -8, -5, -3, -1, 1, 4, 7, 10, 14, 19, 27],
        [-26, -16, -12, -9, -6, -4, -2, 0, 2, 4, 6, 9, 12, 15, 19, 29],
    ],
    np.int8,
)
# The same for groups of 32.
Q4C_BOOKS = np.array(
    [
        [-29, -22, -17, -14, -11, -8, -5, -2, 1, 4, 7, 10, 13, 16, 20, 25],
        [-30, -21, -16, -12, -9, -6, -3, 0, 3, 6, 9, 12, 15, 20, 24, 30],
        [-30, -25, -20, -16, -13, -10, -7, -4, -1, 2, 5, 8, 11, 15, 19, 24],
        [-26, -16, -12, -9, -6, -4, -2, 0, 2, 4, 6, 9, 12, 15, 19, 29],
    ],
    np.int8,
)
Q3_BOOKS = np.array(
    [
        [-26, -18, -11, -4, 2, 9, 16, 23],
        [-20, -13, -7, -1, 5, 11, 20, 32],
        [-32, -22, -14, -8, -2, 4, 10, 17],
        [-30, -16, -8, -1, 5, 12, 19, 27],
        [-31, -21, -10, -3, 3, 9, 17, 28],
        [-23, -15, -9, -3, 3, 9, 16, 32],
        [-28, -20, -13, -6, 0, 6, 13, 22],
        [-28, -12, -6, 0, 5, 11, 17, 32],
    ],
    np.int8,
)
Q5_BOOK = np.array(
    [
        [-121, -99, -87, -77, -68, -60, -52, -45, -38, -32, -26, -20, -15, -9, -4, 1]
        + [7, 12, 18, 24, 30, 35, 41, 47, 54, 61, 69, 78, 88, 100, 113, 127],
    ],
    np.int8,
)
Q6_BOOK = np.array(
    [
        [-123, -116, -106, -99, -92, -86, -81, -76, -71, -66, -62, -58, -54, -50, -47, -43]
        + [-40, -37, -34, -30, -27, -24, -21, -18, -16, -13, -10, -7, -5, -2, 1, 4]
        + [7, 9, 12, 15, 18, 20, 23, 26, 29, 32, 35, 38, 41, 44, 47, 51]
        + [54, 57, 61, 65, 69, 73, 77, 82, 87, 91, 97, 103, 111, 116, 125, 127],
    ],
    np.int8,
)
