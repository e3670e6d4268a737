"""Linux's `io_uring`, by system calls."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

_SETUP, _ENTER = 425, 426  # system calls, by the same numbers on every processor
_SUBMITTED_AT = 0x10000000  # what to map for the entries; at 0 are the rings
_LINUX_5_6 = 1 << 3  # a feature that came with it, as the operation that reads did
_READ, _LINKED, _WAIT = 22, 4, 1  # an operation, a flag of an entry, a flag of a call
_COUNTER = 0xFFFFFFFF  # counters run on in 32 bits


class Part(NamedTuple):
    """Bytes of a file on their way to an address."""

    name: int
    descriptor: int
    offset: int
    address: int
    bytes: int


class Ring:
    """Chains of reads that the kernel carries out on its own; raises OSError where it can't.

    What a read writes to must outlive it: `close` waits.
    """

    def __init__(self, entries: int) -> None:
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError("there is no queue of reads on this system")
        self._libc = ctypes.CDLL(None, use_errno=True)
        made = _Parameters()
        self._descriptor = self._call(_SETUP, ctypes.c_long(entries), ctypes.byref(made))
        try:
            if not made.features & _LINUX_5_6:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            self._map(made)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _map(self, made: _Parameters) -> None:
        submitted, completed = made.submitted, made.completed
        size = max(submitted.array + made.entries * 4, completed.events + made.events * ctypes.sizeof(_Event))
        rings = mmap.mmap(self._descriptor, size)
        self._entries = mmap.mmap(self._descriptor, made.entries * _ENTRY.size, offset=_SUBMITTED_AT)
        self._events = (_Event * made.events).from_buffer(rings, completed.events)
        self._begun, self._asked = (_U32.from_buffer(rings, at) for at in (submitted.head, submitted.tail))
        self._taken, self._ended = (_U32.from_buffer(rings, at) for at in (completed.head, completed.tail))
        (_U32 * made.entries).from_buffer(rings, submitted.array)[:] = range(made.entries)

    def submit(self, chains: Sequence[Sequence[Part]]) -> None:
        """Begin these, each part when the one before it in its chain has ended; as many parts as there are entries."""
        asked, entries = self._asked.value, len(self._entries) // _ENTRY.size
        for chain in chains:
            last = len(chain) - 1
            for number, (name, descriptor, offset, address, count) in enumerate(chain):
                at, flags = asked % entries * _ENTRY.size, _LINKED if number < last else 0
                _ENTRY.pack_into(self._entries, at, _READ, flags, 0, descriptor, offset, address, count, 0, name)
                asked += 1
        self._asked.value = asked
        while left := (self._asked.value - self._begun.value) & _COUNTER:
            self._enter(begin=left, wait=0)

    def completed(self) -> list[tuple[int, int]]:
        """(name, bytes read or minus an error number) of parts that have ended since the last call."""
        found = []
        while self._taken.value != self._ended.value:
            event = self._events[self._taken.value % len(self._events)]
            found.append((event.name, event.result))
            self._taken.value += 1
        return found

    def wait(self) -> None:
        """Wait until there is a part that has ended; raises InterruptedError after a signal."""
        self._enter(begin=0, wait=1)

    def close(self) -> None:
        """Wait for every part that has begun, and give the ring back."""
        if self._descriptor < 0:
            return
        self.completed()
        while self._begun.value != self._ended.value:  # asked after taking: to wait after the last would be for ever
            with suppress(InterruptedError):
                self.wait()
            self.completed()
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
        # What is mapped stays so as long as any of these is.
        del self._entries, self._events, self._begun, self._asked, self._taken, self._ended

    def _enter(self, *, begin: int, wait: int) -> None:
        counts = ctypes.c_long(begin), ctypes.c_long(wait), ctypes.c_long(_WAIT if wait else 0)
        self._call(_ENTER, ctypes.c_long(self._descriptor), *counts, None, ctypes.c_long(0))

    def _call(self, number: int, *arguments: object) -> int:
        result: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)} ({errno.errorcode.get(code, code)} of a queue of reads)")
        return result


_U32 = ctypes.c_uint32
# `struct io_uring_sqe` of linux/io_uring.h: operation, flags, priority, descriptor, offset, address, bytes, flags of
# the operation, name, and what a read has no use for.
_ENTRY = struct.Struct("=BBHiQQIIQ24x")


class _Event(ctypes.Structure):
    """`struct io_uring_cqe`."""

    _fields_ = (("name", ctypes.c_uint64), ("result", ctypes.c_int32), ("flags", _U32))


class _Submitted(ctypes.Structure):
    """`struct io_sqring_offsets`."""

    _fields_ = (
        *((name, _U32) for name in ("head", "tail", "mask", "entries", "flags", "dropped", "array", "unused")),
        ("address", ctypes.c_uint64),
    )


class _Completed(ctypes.Structure):
    """`struct io_cqring_offsets`."""

    _fields_ = (
        *((name, _U32) for name in ("head", "tail", "mask", "entries", "overflow", "events", "flags", "unused")),
        ("address", ctypes.c_uint64),
    )


class _Parameters(ctypes.Structure):
    """`struct io_uring_params`."""

    _fields_ = (
        *((name, _U32) for name in ("entries", "events", "flags", "processor", "idle", "features", "shared")),
        ("unused", _U32 * 3),
        ("submitted", _Submitted),
        ("completed", _Completed),
    )
