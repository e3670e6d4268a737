"""A panel of bytes: a stretch of a tile unpacked to small weights, and its product with many tokens at once.

Formats of at most 4 bits have levels within -32 .. 32, times an integer for each row and 16 inputs. Held LIFT higher
they are unsigned bytes. What levels held higher add too much is known of each token, and is where a sum starts. How
the products of 16 inputs are added up is the CPU's: see `dot_panel.py` and `pair_panel.py`.

Shapes: panel [128, 16, 4] u8: 4 inputs of a row side by side · factors of each 16 inputs and row, 2,048 bytes
        scales of rows, [16] f32, or of 32 inputs and rows, [16, 16] f32
        packs as in `packs.py`
"""

from __future__ import annotations

import numpy as np

from cpu_runtime.kernels.activations import GROUP
from cpu_runtime.kernels.cpu import DOTS
from cpu_runtime.kernels.vectors import fma, load_f32, splat_f32, store_f32, store_i8
from quant.formats import ROWS, SEGMENT
from quant.jit import inner

if DOTS:
    from cpu_runtime.kernels.dot_panel import FACTOR, multiply_bytes, multiply_bytes_grouped, put_factors
else:
    from cpu_runtime.kernels.pair_panel import FACTOR, multiply_bytes, multiply_bytes_grouped, put_factors

__all__ = ["FACTOR", "multiply_bytes", "multiply_bytes_grouped", "put_factors"]

PANEL = SEGMENT * ROWS  # bytes of a panel
SCALES = SEGMENT // GROUP * ROWS
_ZERO = np.float32(0)


@inner
def put(panel, i, row, weights):
    """The weights of inputs i .. i + 3 (a multiple of 4), LIFT higher: bytes of rows from `row` on, 4 a row."""
    store_i8(panel, i * ROWS + 4 * row, weights)


@inner
def add_scaled(sums, scales, out, size):
    """The first `size` of out += sums times the scales of 16 rows; those sums = 0.

    Shapes: sums, out [at least 16 P] f32 · scales [16] f32
    """
    row_scales = load_f32(scales, 0, ROWS)
    for o in range(0, size, ROWS):
        store_f32(out, o, fma(load_f32(sums, o, ROWS), row_scales, load_f32(out, o, ROWS)))
        store_f32(sums, o, splat_f32(_ZERO, ROWS))
