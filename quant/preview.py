"""What a conversion will make, before a byte is written."""

from __future__ import annotations

from dataclasses import dataclass

from quant import layout
from quant.checkpoint import Checkpoint
from quant.convert import CHUNK
from quant.plan import Plan, check
from quant.recipe import Recipe

# Bytes of Python, its packages and kernels, of which compiling them the first time takes some 70 million.
BASE = 280 << 20


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


@dataclass(frozen=True)
class Preview:
    """Sizes by role, largest first, and what the conversion needs."""

    roles: tuple[RoleSize, ...]
    output_bytes: int
    source_bytes: int
    peak_bytes: int

    @property
    def weights(self) -> int:
        """Weights in all."""
        return sum(role.weights for role in self.roles)


def preview(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> Preview:
    """Sizes of the model that `convert` would write; raises as `plan.check` does."""
    check(plan, checkpoint)
    found: dict[str, list[tuple[int, int, str]]] = {}
    record_bytes = widest = 0
    for dense in plan.dense:
        dtype, shape, form = layout.stored_shape(dense, recipe, checkpoint)
        size = _product(shape) * (4 if form is None else 1)
        found.setdefault(dense.role, []).append((_product(dense.shape), size, form.name if form else dtype.lower()))
    for layer in plan.experts:
        parts, record_bytes = layout.record_parts(layer, recipe, checkpoint)
        weights = layer.n_experts * sum(p.rows * p.cols for p in parts.values())
        names = "+".join(sorted({p.format.name for p in parts.values()}))
        found.setdefault("expert", []).append((weights, layer.n_experts * record_bytes, names))
        widest = max(widest, max(p.rows * p.cols * 4 for p in parts.values()))
    roles = [
        RoleSize(role, sum(w for w, _, _ in f), sum(b for _, b, _ in f), tuple(sorted({n for _, _, n in f})))
        for role, f in found.items()
    ]
    roles.sort(key=lambda role: -role.bytes)
    # Two chunks of rows are held while one is read and one is packed, each as stored and as float32.
    peak = 3 * min(CHUNK, max(widest, 1 << 20)) + 3 * record_bytes + BASE
    return Preview(tuple(roles), sum(role.bytes for role in roles), checkpoint.bytes, peak)


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product
