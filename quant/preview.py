"""What a conversion will make, before a byte is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quant.checkpoint import Checkpoint
from quant.manifest import tensors
from quant.plan import Plan, check
from quant.recipe import Recipe
from quant.role_sizes import RoleSize, role_sizes
from quant.stored import CHUNK

# Bytes of Python, its packages and kernels, of which compiling them the first time takes some 70 million.
BASE = 280 << 20


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
    recipe.check_layers(plan)
    return of_tensors(*tensors(plan, recipe, checkpoint), checkpoint.bytes)


def of_tensors(dense: dict[str, Any], experts: dict[str, Any], source_bytes: int) -> Preview:
    """The same from those sections of a manifest, with or without checksums."""
    record_bytes = max((layer["record_bytes"] for layer in experts.values()), default=0)
    parts = [part for layer in experts.values() for part in layer["parts"].values()]
    widest = max((4 * part["rows"] * part["cols"] for part in parts), default=0)
    roles = role_sizes(dense, experts)
    # Two chunks of rows are held while one is read and one is packed, each as stored and as float32.
    peak = 3 * min(CHUNK, max(widest, 1 << 20)) + 3 * record_bytes + BASE
    return Preview(roles, sum(role.bytes for role in roles), source_bytes, peak)
