"""A conversion cut along the source: what each tensor or group of tensors becomes, and where in which file that goes.

`convert` writes one file after another; here the same bytes are written in any order, as their sources come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quant import layout
from quant.checkpoint import Checkpoint
from quant.plan import Dense, ExpertLayer, Part, Plan
from quant.recipe import Recipe
from quant.report import Sums, expert_matrix
from quant.source_rows import dense_rows, part_rows
from quant.stored import packed_rows, vector

Placed = Iterator[tuple[int, memoryview]]  # (offset in the file, bytes)


@dataclass(frozen=True)
class Stretch:
    """Part of the output file `file`, whole matrices, made as soon as the source tensors `needs` are all here.

    The errors of its matrices are added to the sums that `data` is given.
    """

    file: str
    needs: tuple[str, ...]
    size: int
    data: Callable[[Sums], Placed]


def stretches(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> list[Stretch]:
    """Every stretch of the output; together they are all bytes of its files but headers and padding."""
    found = list(_dense(checkpoint, plan, recipe))
    for layer in plan.experts:
        found.extend(_experts(checkpoint, layer, recipe))
    return found


def _dense(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> Iterator[Stretch]:
    head, sizes = layout.dense_header(plan, recipe, checkpoint)
    at = len(head)
    for dense, size in zip(layout.in_file_order(plan), sizes, strict=True):
        data = _dense_data(checkpoint, dense, recipe, at)
        yield Stretch(layout.DENSE_FILE, _needs(checkpoint, dense.source), size, data)
        at += size


def _dense_data(checkpoint: Checkpoint, dense: Dense, recipe: Recipe, at: int) -> Callable[[Sums], Placed]:
    def data(sums: Sums) -> Placed:
        _, _, form = layout.stored_shape(dense, recipe, checkpoint)
        if form is None:
            yield at, vector(checkpoint, dense)
            return
        place = at
        for packed in packed_rows(dense_rows(checkpoint, dense), form, dense.name, sums, recipe):
            yield place, _bytes(packed)
            place += packed.nbytes

    return data


def _experts(checkpoint: Checkpoint, layer: ExpertLayer, recipe: Recipe) -> Iterator[Stretch]:
    parts, record_bytes = layout.record_parts(layer, recipe, checkpoint)
    head, _ = layout.expert_header(layer, recipe, checkpoint)
    for part in layer.parts:
        place = parts[part.name]
        for experts in [range(layer.n_experts)] if part.fused else [range(e, e + 1) for e in range(layer.n_experts)]:
            needs = _needs(checkpoint, part.tensor(experts[0]))
            data = _expert_data(checkpoint, layer.layer, part, place, experts, len(head), record_bytes, recipe)
            yield Stretch(layout.expert_file(layer.layer), needs, place.bytes * len(experts), data)


def _expert_data(
    checkpoint: Checkpoint,
    layer: int,
    part: Part,
    place: layout.RecordPart,
    experts: range,
    start: int,
    record_bytes: int,
    recipe: Recipe,
) -> Callable[[Sums], Placed]:
    def data(sums: Sums) -> Placed:
        for expert in experts:
            at = start + expert * record_bytes + place.offset
            rows, name = part_rows(checkpoint, part, expert), expert_matrix(layer, expert, part.name)
            for packed in packed_rows(rows, place.format, name, sums, recipe):
                yield at, _bytes(packed)
                at += packed.nbytes

    return data


def _needs(checkpoint: Checkpoint, source: str) -> tuple[str, ...]:
    return tuple(tensor.name for tensor in checkpoint.encoding(source).tensors)


def _bytes(packed: np.ndarray) -> memoryview:
    return packed.reshape(-1).view(np.uint8).data
