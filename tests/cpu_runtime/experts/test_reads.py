from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.drive import open_copy
from cpu_runtime.experts.kernel_queue import KernelQueue
from cpu_runtime.experts.reads import Read, Reads, open_reads
from quant.container import QuantizedModel

SLOTS = 6
Opened = tuple[Reads, Arena]


@pytest.fixture
def opened(model: QuantizedModel, reads: str) -> Iterator[Opened]:
    """Reads of either kind into slots for a few records."""
    layers = [model.expert_layer(layer) for layer in model.expert_layers]
    arena = Arena(SLOTS, layers[0].records.shape[1])
    files = open_copy(layers, arena).files
    made = open_reads([files], arena, {layer.layer: np.zeros((1, len(layer.records)), bool) for layer in layers})
    yield made, arena
    made.close()
    for file in files.values():
        file.close()


def all_ended(reads: Reads, awake: bool) -> set[Read]:
    found: set[Read] = set()
    while len(found) < SLOTS:
        found.update(reads.ended(wait=True, awake=awake))
    return found


@pytest.mark.parametrize("awake", [False, True])
def test_every_read_ends_once_with_its_record_in_its_slot(model: QuantizedModel, opened: Opened, awake: bool) -> None:
    reads, arena = opened
    layer = model.expert_layers[0]
    wanted = {Read(layer, expert, SLOTS - 1 - expert) for expert in range(SLOTS)}
    reads.start(sorted(wanted))
    assert all_ended(reads, awake) == wanted
    records = model.expert_layer(layer).records
    for read in wanted:
        assert np.array_equal(arena.slot(read.slot, records.shape[1]), records[read.expert])


def test_a_wait_that_lasts_is_slept_through(
    model: QuantizedModel, opened: Opened, reads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, asked, ended = opened[0], [], KernelQueue.ended

    def slow(queue: KernelQueue, *, wait: bool) -> list[tuple[int, int]]:
        asked.append(wait)
        return ended(queue, wait=True) if wait else []

    monkeypatch.setattr(KernelQueue, "ended", slow)
    started.start([Read(model.expert_layers[0], expert, expert) for expert in range(SLOTS)])
    assert len(all_ended(started, awake=True)) == SLOTS
    # A queue is asked again and again for a while, then slept for; threads that read are always slept for.
    assert asked[:1] + asked[-1:] == ([False, True] if reads == "queued" else [])
