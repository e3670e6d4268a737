"""Experts of a model larger than memory: those worth most are kept, the others read from disk when asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.copies import Copies
from cpu_runtime.experts.drive import open_copy
from cpu_runtime.experts.foresight import Foresight
from cpu_runtime.experts.reads import Read, all_direct, open_reads
from cpu_runtime.experts.residence import Residence
from cpu_runtime.experts.store import Group
from quant.container import ExpertRecords, QuantizedModel
from quant.jit import threads
from quant.layout import PAGE

UNDER_WAY = 10  # records: what a token misses of a layer; of a prompt's, more would push out what later layers find
GUESSES = 3  # read for a token at most: what a drive does while the last experts and the next attention are computed


@dataclass
class Statistics:
    """What a store did since it was opened; `seconds_waited` is when nothing could be computed for want of a record.

    Of the misses, `guessed_right` were on their way before they were asked for; `guessed` counts all such reads.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    seconds_waited: float = 0.0
    guessed: int = 0
    guessed_right: int = 0

    @property
    def hit_rate(self) -> float | None:
        """The share of asked experts that memory held; None where none was asked for."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


@dataclass
class _Call:
    """What a fetch is waiting for: `missing` members of those asked for, and by expert the members on their way."""

    layer: int
    asked: np.ndarray
    tokens: int
    missing: deque[int]
    coming: dict[int, int] = field(default_factory=dict)


class StreamedExperts:
    """`slots` records in memory; the layer that holds most of them makes room for the next; one caller at a time.

    A slot is either free, or holds a record that is whole (`_layers`), or is being read into (`_reading`): a record
    that could not be read is in none of them. With `verify` a record's checksum is compared the first time it is read.
    A `mirror` is the same model on another drive, which then share the reads.
    """

    def __init__(
        self, model: QuantizedModel, slots: int, *, verify: bool = False, mirror: QuantizedModel | None = None
    ) -> None:
        self._records = {layer: model.expert_layer(layer) for layer in model.expert_layers}
        counts = {n: r.records.shape[0] for n, r in self._records.items()}
        models = [model] if mirror is None else [model, mirror]
        self._arena = Arena(slots, slot_bytes(model))
        self._unchecked = {n: np.full((len(models), count), verify) for n, count in counts.items()}
        self._copies = Copies([open_copy(map(m.expert_layer, m.expert_layers), self._arena) for m in models])
        self._reads = open_reads(self._copies.files, self._arena, self._unchecked)
        self._layers = {n: Residence(count) for n, count in counts.items()}
        self._free = list(range(slots))
        self._given_back: list[int] = []
        self._reading: dict[tuple[int, int], Read] = {}
        self._foresight = Foresight()
        self._guesses: deque[tuple[int, int]] = deque()
        self._guessed: set[tuple[int, int]] = set()  # read or being read on a guess, and not asked for since
        self._broken_off = False
        self.statistics = Statistics()

    @property
    def slots(self) -> int:
        """How many records there is room for."""
        return self._arena.records.shape[0] - len(self._given_back)

    @property
    def bytes(self) -> int:
        """Memory for records."""
        return self.slots * self._arena.records.shape[1]

    @property
    def direct(self) -> bool:
        """Whether records are read past the operating system's cache."""
        return all_direct(self._copies.files)

    def records(self, layer: int) -> ExpertRecords:
        """How the layer's records are laid out."""
        return self._records[layer]

    def fetch(
        self, layer: int, experts: np.ndarray, uses: np.ndarray | None = None, tokens: int = 1
    ) -> Iterator[Group]:
        """First those that are there, while the others are being read; then these, as they come."""
        if self._broken_off:
            self._recover()
        self._broken_off = True  # until the last group is done with
        self._guesses.clear()
        residence = self._layers[layer]
        here = residence.slot_of[experts] >= 0
        call = _Call(layer, experts, tokens, deque())
        hits = np.flatnonzero(here).tolist()
        for member in np.flatnonzero(~here).tolist():
            expert = int(experts[member])
            if (layer, expert) in self._reading:
                call.coming[expert] = member
            else:
                call.missing.append(member)
        coming = list(call.coming)
        residence.use(experts[hits])
        self._start(call)  # before the books are kept, for which the drive need not rest
        residence.used(experts, uses, tokens)
        self._foresight.asked(layer, experts)
        self._count(layer, experts, hits, coming)
        return self._groups(call, hits)

    def expect(self, layer: int, experts: np.ndarray, tokens: int) -> None:
        """Experts that a layer is likely to be asked for soon, the surest first: read when nothing else is to be read.

        To be called between `fetch` and its groups; the next `fetch` drops what has not begun.
        """
        likely = self._foresight.likely(layer, experts, tokens)
        residence = self._layers[layer]
        residence.use(likely)
        missing = [(layer, expert) for expert in likely[residence.slot_of[likely] < 0].tolist()]
        guesses = [guess for guess in missing if guess not in self._reading]
        self._guesses.extend(guesses[: None if tokens > 1 else GUESSES])

    def _count(self, layer: int, experts: np.ndarray, hits: list[int], coming: list[int]) -> None:
        early = {expert for guessed, expert in self._guessed if guessed == layer} if self._guessed else set()
        self._guessed -= {(layer, expert) for expert in early}
        held = len(early.intersection(experts[hits].tolist()))
        self.statistics.guessed_right += held + len(early.intersection(coming))
        self.statistics.hits += len(hits) - held
        self.statistics.misses += len(experts) - len(hits) + held

    def _groups(self, call: _Call, here: list[int]) -> Iterator[Group]:
        residence = self._layers[call.layer]
        while here or call.missing or call.coming:
            if here:
                experts = call.asked[here]
                residence.use(experts)
                self._start(call)
                yield Group(self._arena.records, np.array(here, np.int32), residence.slot_of[experts])
                residence.use(_NONE)
            self._start(call)
            if not self._reading and call.missing:  # all that is held is kept for a guess
                self._keep_nothing()
                self._start(call)
            here = self._arrived(call) if call.missing or call.coming else []
        residence.use(_NONE)
        self._broken_off = False

    def _start(self, call: _Call) -> None:
        """Begin to read what the call misses, then what is guessed, as far as there is room beside what is in use."""
        begun: list[Read] = []
        most = UNDER_WAY * len(self._copies)
        while (call.missing or self._may_guess(call)) and len(self._reading) < most:
            slot = self._room()
            if slot is None:
                break
            if call.missing:
                member = call.missing.popleft()
                layer, expert = call.layer, int(call.asked[member])
                call.coming[expert] = member
            else:
                layer, expert = self._guesses.popleft()
                self._guessed.add((layer, expert))
                self.statistics.guessed += 1
            copy = self._copies.begin(self._record_bytes(layer))
            read = self._reading[layer, expert] = Read(layer, expert, slot, copy)
            begun.append(read)
        if begun:
            self._reads.start(begun)

    def _may_guess(self, call: _Call) -> bool:
        """Whether the drive has nothing surer to do: reads share it, so that a guess would hold up what is waited for.

        A prompt's guesses are as good as certain, and wait only for what has not begun.
        """
        return bool(self._guesses) and (call.tokens > 1 or not call.coming)

    def _room(self) -> int | None:
        """A slot to read into: a free one, or that of the record worth least in the layer that holds most.

        Layers take turns, so that in one order for all of them those just computed, which are needed last, would crowd
        out those that come next.
        """
        if self._free:
            return self._free.pop()
        for residence in sorted(self._layers.values(), key=_held, reverse=True):
            if residence.held and (slot := residence.leave()) is not None:
                return slot
        return None

    def _arrived(self, call: _Call) -> list[int]:
        """The members that have come, perhaps none, after a wait for any read; raises what a read raised."""
        reads = self._reads.ended(wait=False)
        if not reads and self._reading:
            start = perf_counter()
            reads = self._reads.ended(wait=True, awake=call.tokens == 1 and threads() > 1)
            self.statistics.seconds_waited += perf_counter() - start
        members: list[int] = []
        for read in reads:
            self.statistics.bytes_read += self._record_bytes(read.layer)
            self._copies.end(read.copy, self._record_bytes(read.layer))
            del self._reading[read.layer, read.expert]
            self._layers[read.layer].hold(read.expert, read.slot)
            if read.layer == call.layer and read.expert in call.coming:
                members.append(call.coming.pop(read.expert))
        return members

    def give_back(self, size: int) -> int:
        """Hold at least `size` bytes of records less, as far as there are any to spare; returns how many bytes less.

        Not to be called between a `fetch` and its last group.
        """
        if self._broken_off:
            self._recover()
        least, freed = len(self._layers), 0
        self._broken_off = True
        while freed < size and self.slots > least and (slot := self._room()) is not None:
            self._given_back.append(slot)
            freed += self._arena.forget(slot)
        self._broken_off = False
        return freed

    def _record_bytes(self, layer: int) -> int:
        return int(self._records[layer].records.shape[1])

    def _keep_nothing(self) -> None:
        for residence in self._layers.values():
            residence.use(_NONE)

    def _recover(self) -> None:
        """After a call that was broken off or failed, anywhere: let its reads end, and free the slots they had.

        A new queue, because only the end of the old one is sure to be the end of a read whose start was interrupted.
        """
        self._reads.close()
        self._reads = open_reads(self._copies.files, self._arena, self._unchecked)
        self._copies.end_all()
        self._reading.clear()
        self._guessed.clear()
        taken = set(self._given_back)
        self._keep_nothing()
        for residence in self._layers.values():
            residence.recount()
            taken.update(residence.slot_of[residence.slot_of >= 0].tolist())
        self._free = sorted(set(range(self._arena.records.shape[0])) - taken)
        self._broken_off = False

    def close(self) -> None:
        """End reads and threads, close the files and give the memory back."""
        self._reads.close()
        self._copies.close()
        self._layers = {}
        self._arena.forget_all()


_NONE = np.zeros(0, np.int32)


def _held(residence: Residence) -> int:
    return residence.held


def slot_bytes(model: QuantizedModel) -> int:
    """Bytes of a slot that holds any of the model's records."""
    return max((model.expert_layer(layer).records.shape[1] for layer in model.expert_layers), default=PAGE)
