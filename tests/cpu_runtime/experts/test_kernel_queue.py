"""The kernel's queue of reads: every byte in its place, in order, and nothing under way once it is closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from threading import Thread
from time import sleep
from typing import NamedTuple

import numpy as np
import pytest

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.kernel_queue import ABREAST, KernelQueue
from cpu_runtime.experts.ring import Ring
from quant.layout import PAGE

SIZE = 250 * PAGE  # of a record: parts of unequal size
COUNT = 60  # of records: more parts than one call takes


class File(NamedTuple):
    descriptor: int
    content: np.ndarray


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[File]:
    """Records, and half of one behind them."""
    path = tmp_path_factory.mktemp("queue") / "records"
    content = np.random.default_rng(0).integers(0, 256, COUNT * SIZE + SIZE // 2, np.uint8)
    path.write_bytes(content.tobytes())
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECT", 0))
    except OSError:
        pytest.skip("no direct reads here")
    yield File(descriptor, content)
    os.close(descriptor)


@pytest.fixture
def queue() -> Iterator[KernelQueue]:
    try:
        made = KernelQueue()
    except OSError:
        pytest.skip("no queue of reads here")
    yield made
    made.close()


def rings() -> int:
    """How many descriptors of rings this process holds."""
    return sum("io_uring" in os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink())


def all_ended(queue: KernelQueue, count: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while len(found) < count:
        found += queue.ended(wait=True)
    assert queue.ended(wait=False) == []
    return found


def test_more_records_than_one_call_takes(queue: KernelQueue, file: File) -> None:
    arena = Arena(COUNT, SIZE)
    queue.submit([(n, file.descriptor, n * SIZE, arena.slot(n, SIZE)) for n in range(COUNT)])
    assert sorted(all_ended(queue, COUNT)) == [(n, SIZE) for n in range(COUNT)]
    assert np.array_equal(arena.records.reshape(-1), file.content[: COUNT * SIZE])


def test_records_of_a_page_follow_one_another(queue: KernelQueue, file: File) -> None:
    arena = Arena(40, PAGE)
    queue.submit([(n, file.descriptor, n * PAGE, arena.slot(n, PAGE)) for n in range(40)])
    ended = all_ended(queue, 40)
    assert sorted(ended) == [(n, PAGE) for n in range(40)]
    for start in range(ABREAST):
        assert [name for name, _ in ended if name % ABREAST == start] == list(range(start, 40, ABREAST))
    assert np.array_equal(arena.records.reshape(-1), file.content[: 40 * PAGE])


def test_what_could_not_be_read_is_told_and_later_reads_come(queue: KernelQueue, file: File) -> None:
    arena = Arena(3, SIZE)
    half, nowhere = (7, file.descriptor, COUNT * SIZE, arena.slot(0, SIZE)), (8, -1, 0, arena.slot(1, SIZE))
    queue.submit([half, nowhere])
    ended = dict(all_ended(queue, 2))
    assert ended[7] < SIZE
    assert ended[8] == 0
    queue.submit([(9, file.descriptor, 0, arena.slot(2, SIZE))])
    assert all_ended(queue, 1) == [(9, SIZE)]


def test_closing_waits_for_what_is_under_way(queue: KernelQueue, file: File) -> None:
    arena = Arena(COUNT, SIZE)
    queue.submit([(n, file.descriptor, n * SIZE, arena.slot(n, SIZE)) for n in range(COUNT)])
    before = rings()
    queue.close()
    assert np.array_equal(arena.records.reshape(-1), file.content[: COUNT * SIZE])
    queue.close()
    assert before
    assert rings() == 0


def test_closing_ends_where_the_last_read_does_meanwhile(
    queue: KernelQueue, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Ring.completed

    def late(ring: Ring) -> list[tuple[int, int]]:
        while ring._begun.value != ring._ended.value:
            sleep(0.001)
        return taken(ring)

    monkeypatch.setattr(Ring, "completed", late)
    arena = Arena(COUNT, SIZE)
    queue.submit([(n, file.descriptor, n * SIZE, arena.slot(n, SIZE)) for n in range(COUNT)])
    closing = Thread(target=queue.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
