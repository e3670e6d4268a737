"""Experts of a model larger than memory: the latest used ones are kept, the others read from disk when asked for."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.drive import open_files
from cpu_runtime.experts.store import Group
from quant.container import ExpertRecords, QuantizedModel
from quant.layout import PAGE

READERS = 8  # reads under way at once: what it takes to keep an NVMe drive busy


@dataclass
class Statistics:
    """What a store did since it was opened; `seconds_waited` is when nothing could be computed for want of a record."""

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    seconds_waited: float = 0.0


@dataclass(frozen=True)
class _Read:
    """A record on its way: the `member`-th of those asked for, into a slot."""

    member: int
    slot: int
    done: Future[None]


class StreamedExperts:
    """`slots` records in memory, a layer's least recently used making room for its next; one caller at a time.

    A slot is either free, or holds a record that is whole (`_held`, by layer, the least recently used first), or is
    being read into (`_reading`): a record that could not be read is in none of them. With `verify` a record's checksum
    is compared the first time it is read.
    """

    def __init__(self, model: QuantizedModel, slots: int, *, verify: bool = False) -> None:
        self._layers = {layer: model.expert_layer(layer) for layer in model.expert_layers}
        self._arena = Arena(slots, slot_bytes(model))
        self._unchecked = {n: np.full(r.records.shape[0], verify) for n, r in self._layers.items()}
        self._pool = _pool()
        try:
            self._files = open_files(self._layers.values(), self._pool, self._arena)
        except BaseException:
            self._pool.shutdown()
            raise
        self._held: dict[int, OrderedDict[int, int]] = {layer: OrderedDict() for layer in self._layers}
        self._share = max(1, slots // len(self._layers))
        self._free = list(range(slots))
        self._reading: dict[int, _Read] = {}
        self.statistics = Statistics()

    @property
    def slots(self) -> int:
        """How many records there is room for."""
        return self._arena.records.shape[0]

    @property
    def bytes(self) -> int:
        """Memory for records."""
        return self._arena.records.nbytes

    @property
    def direct(self) -> bool:
        """Whether records are read past the operating system's cache."""
        return all(file.direct for file in self._files.values())

    def records(self, layer: int) -> ExpertRecords:
        """How the layer's records are laid out."""
        return self._layers[layer]

    def fetch(self, layer: int, experts: np.ndarray) -> Iterator[Group]:
        """First those that are there, while the others are being read; then these, in the order asked for."""
        if sum(map(len, self._held.values())) + len(self._free) != self.slots:
            self._recover()
        asked = experts.tolist()
        hits: list[int] = []
        misses: deque[int] = deque()
        for member, expert in enumerate(asked):
            (hits if expert in self._held[layer] else misses).append(member)
        for member in hits:
            self._held[layer].move_to_end(asked[member])
        self.statistics.hits += len(hits)
        self.statistics.misses += len(misses)
        self._start(layer, asked, misses, in_use=len(hits))
        return self._groups(layer, asked, hits, misses)

    def _groups(self, layer: int, asked: list[int], hits: list[int], misses: deque[int]) -> Iterator[Group]:
        if hits:
            yield self._group(layer, asked, hits)
        while misses or self._reading:
            self._start(layer, asked, misses, in_use=0)
            arrived = self._arrived(layer)
            self._start(layer, asked, misses, in_use=len(arrived))
            yield self._group(layer, asked, arrived)

    def _group(self, layer: int, asked: list[int], members: list[int]) -> Group:
        slots = [self._held[layer][asked[member]] for member in members]
        return Group(self._arena.records, np.array(members, np.int32), np.array(slots, np.int32))

    def _start(self, layer: int, asked: list[int], misses: deque[int], *, in_use: int) -> None:
        """Begin to read as many of the misses as there is room for beside the `in_use` latest records."""
        while misses and (slot := self._room(layer, in_use)) is not None:
            member = misses.popleft()
            expert = asked[member]
            self._reading[expert] = _Read(member, slot, self._pool.submit(self._read, layer, expert, slot))

    def _room(self, layer: int, in_use: int) -> int | None:
        """A slot to read into: a free one, or the least recently used of the layer, or of the one that has most.

        Layers take turns, so the latest used of all are those needed last: each layer keeps a fair share of its own.
        """
        if self._free:
            return self._free.pop()
        own = self._held[layer]
        taken = len(own) + len(self._reading)
        if taken >= self._share and len(own) > in_use:
            return own.popitem(last=False)[1]
        most = max((held for held in self._held.values() if held is not own), key=len, default=own)
        if most is not own and most and taken < max(self._share, READERS):
            return most.popitem(last=False)[1]
        return own.popitem(last=False)[1] if len(own) > in_use else None

    def _read(self, layer: int, expert: int, slot: int) -> None:
        file = self._files[layer]
        into = self._arena.slot(slot, file.record_bytes)
        file.read(expert, into)
        if self._unchecked[layer][expert]:
            file.layer.check(expert, into)
            self._unchecked[layer][expert] = False

    def _arrived(self, layer: int) -> list[int]:
        """Wait for the first read, and take those after it that are done as well; raises what a read raised."""
        members: list[int] = []
        for expert, read in list(self._reading.items()):
            if not read.done.done():
                if members:
                    break
                start = perf_counter()
                wait([read.done])
                self.statistics.seconds_waited += perf_counter() - start
            read.done.result()
            self.statistics.bytes_read += self._files[layer].record_bytes
            del self._reading[expert]
            self._held[layer][expert] = read.slot
            members.append(read.member)
        return members

    def _recover(self) -> None:
        """After a call that was broken off or failed, anywhere: let its reads end, and free the slots they had.

        A new pool, because only the end of the old one is sure to be the end of a read whose start was interrupted.
        """
        self._pool.shutdown(cancel_futures=True)
        self._pool = _pool()
        self._reading.clear()
        self._free = sorted(set(range(self.slots)) - {slot for held in self._held.values() for slot in held.values()})

    def close(self) -> None:
        """End the threads, close the files and give the memory back."""
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.close()
        self._files = {}
        self._held = {}
        self._arena = Arena(1, PAGE)


def slot_bytes(model: QuantizedModel) -> int:
    """Bytes of a slot that holds any of the model's records."""
    return max((model.expert_layer(layer).records.shape[1] for layer in model.expert_layers), default=PAGE)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="moe-read")
