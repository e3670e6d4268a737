"""Files of a model that are written from beginning to end: what goes into each, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quant import layout
from quant.checkpoint import Checkpoint
from quant.plan import ExpertLayer, Plan
from quant.recipe import Recipe
from quant.report import Sums, expert_matrix
from quant.source_rows import dense_rows, part_rows
from quant.stored import packed_rows, vector


@dataclass(frozen=True)
class Job:
    """One file to write: its data in order, the header first, then `stretches` of so many bytes, each with a checksum.

    The errors of its matrices are added to the sums that `data` is given.
    """

    file: str
    head: bytes
    stretches: list[int]
    data: Callable[[Sums], Iterator[bytes | memoryview]]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.head) + sum(self.stretches)


def jobs(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> list[Job]:
    """Every file of weights, what every token reads first."""
    return [_dense_job(checkpoint, plan, recipe)] + [_expert_job(checkpoint, e, recipe) for e in plan.experts]


def _dense_job(checkpoint: Checkpoint, plan: Plan, recipe: Recipe) -> Job:
    ordered = [(dense, layout.stored_shape(dense, recipe, checkpoint)[2]) for dense in layout.in_file_order(plan)]
    head, sizes = layout.dense_header(plan, recipe, checkpoint)

    def data(sums: Sums) -> Iterator[bytes | memoryview]:
        yield head
        for dense, form in ordered:
            if form is None:
                yield vector(checkpoint, dense)
            else:
                rows = dense_rows(checkpoint, dense)
                yield from (packed.data for packed in packed_rows(rows, form, dense.name, sums, recipe))

    return Job(layout.DENSE_FILE, head, sizes, data)


def _expert_job(checkpoint: Checkpoint, layer: ExpertLayer, recipe: Recipe) -> Job:
    parts, record_bytes = layout.record_parts(layer, recipe, checkpoint)
    head, sizes = layout.expert_header(layer, recipe, checkpoint)

    def data(sums: Sums) -> Iterator[bytes | memoryview]:
        yield head
        for expert in range(layer.n_experts):
            record = np.zeros(record_bytes, np.uint8)
            for part in layer.parts:
                place = parts[part.name]
                at = place.offset
                rows, name = part_rows(checkpoint, part, expert), expert_matrix(layer.layer, expert, part.name)
                for packed in packed_rows(rows, place.format, name, sums, recipe):
                    record[at : at + packed.size] = packed.reshape(-1)
                    at += packed.size
            yield record.data

    return Job(layout.expert_file(layer.layer), head, sizes, data)
