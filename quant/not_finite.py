"""Weights or scales of a source that are no numbers: how many, and where the first is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class NotFinite:
    """`nan` and `infinite` values in tensor `name`, the first of them at `row` and `col`, of one `expert` if fused."""

    name: str
    what: str
    row: int
    col: int
    expert: int | None
    nan: int
    infinite: int

    def __str__(self) -> str:
        count = self.nan + self.infinite
        kinds = [f"{n} {kind}" for n, kind in ((self.nan, "NaN"), (self.infinite, "infinite")) if n]
        subject = f"a {self.what} is not finite" if count == 1 else f"{count} {self.what}s are not finite"
        where = f"row {self.row}, column {self.col}" + ("" if self.expert is None else f" of expert {self.expert}")
        return f"tensor {self.name!r}: {subject} ({', '.join(kinds)}), {'the first ' if count > 1 else ''}in {where}"


def find(name: str, what: str, values: np.ndarray, first_row: int, expert: int | None) -> NotFinite | None:
    """What is not finite in rows [n, C] f32, the first of which is row `first_row` of the tensor."""
    finite = np.isfinite(values)
    if finite.all():
        return None
    row, col = divmod(int(finite.argmin()), values.shape[1])
    nan = int(np.isnan(values).sum())
    return NotFinite(name, what, first_row + row, col, expert, nan, int(finite.size - finite.sum()) - nan)


def joined(found: NotFinite | None, more: NotFinite | None) -> NotFinite | None:
    """Both, where `more` comes after `found`."""
    if found is None or more is None:
        return found or more
    return replace(found, nan=found.nan + more.nan, infinite=found.infinite + more.infinite)
