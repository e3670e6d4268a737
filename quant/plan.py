"""Where each tensor of a checkpoint goes: plain data that a model family hands to the quantizer.

So the quantizer never knows a family, and a family never touches bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from quant.checkpoint import Checkpoint
from quant.encoding import PLAIN, Encoding
from quant.errors import CheckpointError, UnsupportedError

ROLES = ("expert", "attention", "shared", "mlp", "embedding", "head", "router", "gate", "norm", "conv", "state")


@dataclass(frozen=True)
class HeadSlice:
    """Rows start..stop of each of `heads` heads of `rows` rows that a source matrix holds one after another.

    Stored are the slices one after another: [stop - start, C] of each head, or [C, stop - start] if `transposed`.
    """

    heads: int
    rows: int
    start: int
    stop: int
    transposed: bool = False

    def source_shape(self, stored: tuple[int, int]) -> tuple[int, int]:
        """The shape of the source matrix whose slices make a matrix of shape `stored`."""
        return self.heads * self.rows, stored[0] // self.heads if self.transposed else stored[1]


@dataclass(frozen=True)
class Dense:
    """A tensor that every token uses, under its name in the quantized model.

    A matrix is stored in tiles, in the recipe's format for its role; a vector as float32 in its own shape. With
    `heads`, `shape` is that of the stacked slices, and several tensors may share a source.
    """

    name: str
    source: str
    role: str
    shape: tuple[int, ...]
    kind: Literal["matrix", "vector"] = "matrix"
    heads: HeadSlice | None = None

    def __post_init__(self) -> None:
        if self.heads is not None:
            slice_ = self.heads
            assert self.kind == "matrix"
            assert 0 <= slice_.start < slice_.stop <= slice_.rows
            wide = slice_.stop - slice_.start
            rows, cols = self.shape
            assert rows % slice_.heads == 0
            assert (cols if slice_.transposed else rows // slice_.heads) == wide

    @property
    def layer(self) -> int | None:
        """The layer that it belongs to, by its name; None for what is outside of the layers."""
        found = re.match(r"layers\.(\d+)\.", self.name)
        return int(found[1]) if found else None

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of the tensor `source`."""
        if self.heads is None:
            return self.shape
        rows, cols = self.shape
        return self.heads.source_shape((rows, cols))


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

    @property
    def layers(self) -> set[int]:
        """Every layer that there is."""
        return {d.layer for d in self.dense if d.layer is not None} | {layer.layer for layer in self.experts}


def check(plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the plan reads every tensor that it does not skip, each in its shape.

    Only headers are looked at. The tensors that hold a matrix's scales are read with it.
    """
    consumed: set[str] = set()
    for dense in plan.dense:
        encoding = _check_shape(checkpoint, dense.source, dense.source_shape)
        if dense.kind == "vector" and encoding.dtype not in PLAIN:
            raise UnsupportedError(f"tensor {dense.source!r} is {encoding.dtype}; vectors are {', '.join(PLAIN)}")
        consumed.update(tensor.name for tensor in encoding.tensors)
    for layer in plan.experts:
        for part in layer.parts:
            consumed.update(_check_part(checkpoint, layer, part))
    skip = [re.compile(pattern) for pattern in plan.skip]
    left = [n for n in checkpoint.names if n not in consumed and not any(p.fullmatch(n) for p in skip)]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise CheckpointError(
            f"no place for tensor {', '.join(map(repr, sorted(left)[:3]))}{more}",
            hint="this model differs from the one its config.json names; nothing is dropped silently",
        )


def _check_part(checkpoint: Checkpoint, layer: ExpertLayer, part: Part) -> Iterator[str]:
    """Check a part of every expert; yield the tensors that hold it."""
    if part.fused:
        rows = max((p.rows[1] for p in layer.parts if p.source == part.source and p.rows), default=part.shape[0])
        encoding = _check_shape(checkpoint, part.source, (layer.n_experts, rows, part.shape[1]))
        yield from (tensor.name for tensor in encoding.tensors)
        return
    first = checkpoint.encoding(part.tensor(0))
    for expert in range(layer.n_experts):
        encoding = _check_shape(checkpoint, part.tensor(expert), part.shape)
        if encoding.dtype != first.dtype:  # a record has one format for all experts of its layer
            raise UnsupportedError(
                f"tensor {part.tensor(expert)!r} is {encoding.dtype}, but {part.tensor(0)!r} is {first.dtype}; "
                "this version reads experts of a layer that are stored alike"
            )
        yield from (tensor.name for tensor in encoding.tensors)


def _check_shape(checkpoint: Checkpoint, name: str, expected: tuple[int, ...]) -> Encoding:
    encoding = checkpoint.encoding(name)
    found, held = encoding.shape, encoding.tensors[0]
    if found != expected:
        packed = f", {list(held.shape)} packed" if held.shape != found else ""
        swapped = len(found) == len(expected) > 1 and found == (*expected[:-2], expected[-1], expected[-2])
        raise CheckpointError(
            f"tensor {held.name!r} is {list(found)}{packed}, config.json says {list(expected)}"
            + (": its axes are transposed" if swapped else "")
        )
    return encoding
