"""Rows of numbers, one a token and head, in pages of 256 tokens."""

from __future__ import annotations

import mmap
from math import prod

import numpy as np

from cpu_runtime.kernels.pages import PAGE, as_stored, write_rows
from cpu_runtime.workspace import Workspace
from quant.errors import ResourceError
from quant.large_pages import in_large_pages


class Pages:
    """Room for a whole window of tokens; memory is only used once rows are written there.

    Shapes: rows [pages, heads, 256, size], zeros where nothing was written. Mapped memory is handed out, zeroed, when
    it is first touched, so that a wide window costs nothing until it is used and nothing is ever moved; pages follow
    one another in order of position, so that what is touched is one run of memory, taken 2 MiB at a time where the
    system has such pages. `stored` is the same for kernels.
    """

    __slots__ = ("rows", "stored")

    def __init__(self, heads: int, size: int, context: int, dtype: np.dtype) -> None:
        self.rows = _reserved((-(-context // PAGE), heads, PAGE, size), dtype)
        self.stored = as_stored(self.rows)

    def write(self, rows: np.ndarray, start: int) -> None:
        """Store the rows of T tokens from position `start` on; rows [T, heads, size] f32."""
        write_rows(rows, start, self.stored)

    def taken(self, positions: np.ndarray, workspace: Workspace) -> np.ndarray:
        """Copies of the rows at `positions`, as pages of their own; one head only.

        Shapes: positions [n] i64 -> [ceil(n / 256), 1, 256, size].
        """
        flat = self.rows.reshape(-1, self.rows.shape[3])
        pages = workspace.empty((-(-positions.size // PAGE), 1, PAGE, flat.shape[1]), flat.dtype.type)
        rows = pages.reshape(-1, flat.shape[1])
        np.take(flat, positions, axis=0, out=rows[: positions.size], mode="clip")  # the default mode would copy `out`
        rows[positions.size :] = 0
        return pages

    @property
    def token_bytes(self) -> int:
        """Memory a token takes."""
        _, heads, _, size = self.rows.shape
        return heads * size * self.rows.itemsize

    def clear(self) -> None:
        """Give the memory back."""
        self.rows = _reserved(self.rows.shape, self.rows.dtype)
        self.stored = as_stored(self.rows)


def _reserved(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros, straight from the operating system: an allocator may hand out memory that it has to clear."""
    size = prod(shape) * dtype.itemsize
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"a window of {shape[0] * PAGE} tokens needs {size / 1e9:.1f} GB for one layer, which can't be reserved",
            hint="choose a smaller --ctx",
        ) from error
    in_large_pages(memory)
    return np.frombuffer(memory, dtype).reshape(shape)
