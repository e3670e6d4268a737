"""Where each tensor of a checkpoint goes: plain data that a model family hands to the quantizer.

So the quantizer never knows a family, and a family never touches bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quant.checkpoint import Checkpoint
from quant.errors import CheckpointError

ROLES = ("expert", "attention", "shared", "mlp", "embedding", "head", "router", "gate", "norm", "conv", "state")


@dataclass(frozen=True)
class Dense:
    """A tensor that every token uses, under its name in the quantized model.

    A matrix is stored in tiles, in the recipe's format for its role; a vector as float32 in its own shape.
    """

    name: str
    source: str
    role: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "vector"] = "matrix"


@dataclass(frozen=True)
class Part:
    """One of an expert's matrices: "gate", "up" or "down", [rows, cols].

    `source` holds `{expert}` where each expert has a tensor of its own; otherwise it is one fused tensor
    [E, R, cols] and `rows` tells which of the R belong to this part.
    """

    name: str
    source: str
    shape: tuple[int, int]
    rows: tuple[int, int] | None = None

    @property
    def fused(self) -> bool:
        """Whether one tensor holds the part of every expert."""
        return "{expert}" not in self.source

    def tensor(self, expert: int) -> str:
        """The checkpoint tensor that holds this part of an expert."""
        return self.source if self.fused else self.source.replace("{expert}", str(expert))


@dataclass(frozen=True)
class ExpertLayer:
    """The routed experts of one layer."""

    layer: int
    n_experts: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Plan:
    """Every tensor of a checkpoint: kept, an expert's, or matched by a pattern in `skip`."""

    dense: tuple[Dense, ...]
    experts: tuple[ExpertLayer, ...]
    skip: tuple[str, ...] = ()

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...] | None]]:
        """(tensor, shape) of all that is read; None where a fused tensor's row count is not this plan's business."""
        for dense in self.dense:
            yield dense.source, dense.shape
        for layer in self.experts:
            for part in layer.parts:
                if part.fused:
                    yield part.source, None
                else:
                    yield from ((part.tensor(expert), part.shape) for expert in range(layer.n_experts))


def check(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the plan reads every tensor that it does not skip, each in its shape."""
    consumed = set()
    for name, shape in plan.tensors():
        consumed.add(name)
        found = checkpoint.info(name).shape
        if shape is not None and found != shape:
            raise CheckpointError(f"tensor {name!r} is {list(found)}, config.json says {list(shape)}")
    for layer in plan.experts:
        _check_fused(layer, checkpoint)
    skip = [re.compile(pattern) for pattern in plan.skip]
    left = [n for n in checkpoint.names if n not in consumed and not any(p.fullmatch(n) for p in skip)]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointError(
            f"no place for tensor {', '.join(map(repr, sorted(left)[:3]))}{more}",
            hint="this model differs from the one its config.json names; nothing is dropped silently",
        )


def _check_fused(layer: ExpertLayer, checkpoint: Checkpoint) -> None:
    for part in layer.parts:
        if part.fused:
            rows = max((p.rows[1] for p in layer.parts if p.source == part.source and p.rows), default=part.shape[0])
            expected, found = (layer.n_experts, rows, part.shape[1]), checkpoint.info(part.source).shape
            if found != expected:
                raise CheckpointError(f"tensor {part.source!r} is {list(found)}, config.json says {list(expected)}")
