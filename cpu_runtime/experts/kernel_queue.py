"""Linux's queue of direct reads (`io_submit`), by system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Sequence

import numpy as np

DEPTH = 128  # reads under way, at most
# io_setup, io_destroy, io_getevents, io_submit
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}


class _Control(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h, little-endian; an `opcode` of 0 reads."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("descriptor", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("event", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("control", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class KernelQueue:
    """Reads that are begun by one call and end on their own; raises OSError where the system has no such queue.

    Only files opened for direct reads are read in the background. What a read writes to must outlive it: `close` waits.
    """

    def __init__(self) -> None:
        if sys.platform != "linux" or platform.machine() not in _CALLS or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError("there is no queue of reads on this system")
        self._setup, self._destroy, self._get, self._submit = _CALLS[platform.machine()]
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        self._events = (_Event * DEPTH)()
        self._controls = (_Control * DEPTH)()
        self._pointers = (ctypes.c_void_p * DEPTH)(*(ctypes.addressof(control) for control in self._controls))
        self._call(self._setup, ctypes.c_long(DEPTH), ctypes.byref(self._context))

    def submit(self, reads: Sequence[tuple[int, int, int, np.ndarray]]) -> None:
        """Begin to fill each array from (name, descriptor, offset, array); DEPTH at most may be under way."""
        for control, (name, descriptor, offset, into) in zip(self._controls, reads, strict=False):
            control.data, control.descriptor, control.offset = name, descriptor, offset
            control.buffer, control.bytes = into.ctypes.data, into.nbytes
        begun = 0
        while begun < len(reads):
            first = ctypes.byref(self._pointers, begun * ctypes.sizeof(ctypes.c_void_p))
            begun += self._call(self._submit, self._context, ctypes.c_long(len(reads) - begun), first)

    def ended(self, *, wait: bool) -> list[tuple[int, int]]:
        """(name, bytes read or minus an error number) of reads that have ended; with `wait` at least one."""
        while True:
            try:
                least, most = ctypes.c_long(wait), ctypes.c_long(DEPTH)
                count = self._call(self._get, self._context, least, most, self._events, None)
            except InterruptedError:
                continue  # a signal's handler runs here, and may raise
            return [(event.data, event.result) for event in self._events[:count]]

    def close(self) -> None:
        """Wait for every read under way, and give the queue back."""
        if self._context.value:
            self._call(self._destroy, self._context)
            self._context.value = 0

    def _call(self, number: int, *arguments: object) -> int:
        result: int = self._libc.syscall(ctypes.c_long(number), *arguments)
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)} ({errno.errorcode.get(code, code)} of a queue of reads)")
        return result
