"""How many weights each role has, in which formats and bytes: from what a manifest says of the tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from quant.formats import FORMATS


@dataclass(frozen=True)
class RoleSize:
    """All tensors of one role: how many weights, in which formats, in how many bytes."""

    role: str
    weights: int
    bytes: int
    formats: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight."""
        return 8 * self.bytes / self.weights


def role_sizes(dense: dict[str, Any], experts: dict[str, Any]) -> tuple[RoleSize, ...]:
    """Sizes by role, largest first; the arguments are those sections of a manifest, with or without checksums."""
    found: dict[str, list[tuple[int, int, set[str]]]] = {}
    for entry in dense.values():
        form = entry.get("format", "f32")
        found.setdefault(entry["role"], []).append((prod(entry["shape"]), dense_bytes(entry), {form}))
    for layer in experts.values():
        parts = layer["parts"].values()
        weights = layer["n_experts"] * sum(part["rows"] * part["cols"] for part in parts)
        stored = layer["n_experts"] * layer["record_bytes"]
        found.setdefault("expert", []).append((weights, stored, {part["format"] for part in parts}))
    sizes = [
        RoleSize(
            role,
            sum(w for w, _, _ in all_),
            sum(b for _, b, _ in all_),
            tuple(sorted(set.union(*(f for *_, f in all_)))),
        )
        for role, all_ in found.items()
    ]
    return tuple(sorted(sizes, key=lambda size: -size.bytes))


def total(sizes: Iterable[RoleSize]) -> RoleSize:
    """All roles together."""
    sizes = list(sizes)
    return RoleSize("total", sum(size.weights for size in sizes), sum(size.bytes for size in sizes), ())


def dense_bytes(entry: dict[str, Any]) -> int:
    """The size of a dense tensor as it is stored, from its entry in a manifest."""
    if "format" not in entry:
        return 4 * prod(entry["shape"])
    rows, cols = entry["shape"]
    return FORMATS[entry["format"]].matrix_bytes(rows, cols)
