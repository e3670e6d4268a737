"""Reads of records into an arena, many under way at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.kernel_queue import KernelQueue
from cpu_runtime.experts.record_file import RecordFile
from cpu_runtime.kernels.rouse import rouse

READERS = 8  # threads that read through the operating system's cache, which takes processors as well as the drive
_DIRECT_READERS = 2  # for each drive, which more would share: their records would all come late
_AWAKE = 2e-3  # seconds, of waiting for a read: longer ones lose little by waking threads
_TAKEN = 1e-3  # seconds in which threads don't meet: another program has a core, ..
_LEFT_ALONE = 0.2  # .. and for so many is not to be kept from it


class Read(NamedTuple):
    """A record on its way into a slot, from one of the copies there are."""

    layer: int
    expert: int
    slot: int
    copy: int = 0


Copied = Sequence[Mapping[int, RecordFile]]  # each layer's file, of every copy


def all_direct(copies: Copied) -> bool:
    """Whether all of them are read past the operating system's cache."""
    return all(file.direct for files in copies for file in files.values())


class Reads(Protocol):
    """Starts reads and tells which of them are done; for one caller."""

    def start(self, reads: Sequence[Read]) -> None:
        """Begin these."""
        ...

    def ended(self, *, wait: bool, awake: bool = False) -> list[Read]:
        """Those that have ended since the last call, all whole; with `wait` at least one.

        With `awake` the threads that compute should not fall asleep meanwhile, if reads can do without their cores.
        Raises CheckpointError, naming the record, where one could not be read.
        """
        ...

    def close(self) -> None:
        """Let every read that has begun come to its end, or never begin."""
        ...


def open_reads(copies: Copied, arena: Arena, unchecked: Mapping[int, np.ndarray]) -> Reads:
    """The kernel's own queue where it has one for these files, else threads; these as well where checksums are due.

    `unchecked` [copies, experts] says of each layer whose checksum is to be compared at the first read.
    """
    if all_direct(copies) and not any(which.any() for which in unchecked.values()):
        try:
            return QueuedReads(copies, arena)
        except OSError:
            pass  # there is none, or a sandbox or a limit forbids it
    return ThreadedReads(copies, arena, unchecked)


class QueuedReads:
    """Reads that the kernel carries out on its own: beginning one takes no thread, and ending one wakes none."""

    def __init__(self, copies: Copied, arena: Arena) -> None:
        self._copies = copies
        self._arena = arena
        self._under_way: dict[int, Read] = {}
        self._queue = KernelQueue()
        self._sleepy_until = 0.0
        rouse()  # compiled, or from the cache, before anything is waited for

    def start(self, reads: Sequence[Read]) -> None:
        """Begin these: one system call for all of a drive's."""
        self._under_way.update((read.slot, read) for read in reads)
        for copy in range(len(self._copies)):
            here = [read for read in reads if read.copy == copy]
            self._queue.submit([(read.slot, *self._file(read).place(read.expert), self._into(read)) for read in here])

    def ended(self, *, wait: bool, awake: bool = False) -> list[Read]:
        """See `Reads`; what came short is read again, which says what is wrong if something is."""
        found = []
        for slot, count in self._awaited() if wait and awake else self._queue.ended(wait=wait):
            read = self._under_way.pop(slot)
            into = self._into(read)
            if count != into.nbytes:
                self._file(read).read(read.expert, into)
            found.append(read)
        return found

    def _awaited(self) -> list[tuple[int, int]]:
        """At least one, asked for again and again for a while and then slept for; at once where cores are wanted."""
        now = perf_counter()
        until = now + _AWAKE
        while self._sleepy_until < now < until:
            if ended := self._queue.ended(wait=False):
                return ended
            rouse()
            before, now = now, perf_counter()
            if now - before > _TAKEN:
                self._sleepy_until = now + _LEFT_ALONE
        return self._queue.ended(wait=True)

    def _into(self, read: Read) -> np.ndarray:
        return self._arena.slot(read.slot, self._file(read).record_bytes)

    def _file(self, read: Read) -> RecordFile:
        return self._copies[read.copy][read.layer]

    def close(self) -> None:
        """Wait for what is under way."""
        self._queue.close()


class ThreadedReads:
    """Reads by a pool of threads."""

    def __init__(self, copies: Copied, arena: Arena, unchecked: Mapping[int, np.ndarray]) -> None:
        self._copies = copies
        self._arena = arena
        self._unchecked = unchecked
        readers = _DIRECT_READERS * len(copies) if all_direct(copies) else READERS
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="moe-read")
        self._done: SimpleQueue[tuple[Read, BaseException | None]] = SimpleQueue()

    def start(self, reads: Sequence[Read]) -> None:
        """Begin these, as threads come free."""
        for read in reads:
            self._pool.submit(self._run, read)

    def _run(self, read: Read) -> None:
        file = self._copies[read.copy][read.layer]
        into = self._arena.slot(read.slot, file.record_bytes)
        try:
            file.read(read.expert, into)
            if self._unchecked[read.layer][read.copy, read.expert]:
                file.layer.check(read.expert, into)
                self._unchecked[read.layer][read.copy, read.expert] = False
        except BaseException as error:
            self._done.put((read, error))
        else:
            self._done.put((read, None))

    def ended(self, *, wait: bool, awake: bool = False) -> list[Read]:
        """See `Reads`."""
        found: list[Read] = []
        while True:
            try:
                read, error = self._done.get(block=wait and not found)
            except Empty:
                return found
            if error is not None:
                raise error
            found.append(read)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
