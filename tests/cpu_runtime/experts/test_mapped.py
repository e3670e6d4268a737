"""Only what a token needs is read: the pages of the experts it activates."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.experts import prefault
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.store import Group
from quant.container import open_model
from tests.checkpoints import copy_of
from tests.conftest import DEMO, Quantized

PAGE = mmap.PAGESIZE


def resident(records: np.ndarray) -> np.ndarray:
    """Whether each expert's record is in memory, by `mincore`: the share of its pages."""
    libc = ctypes.CDLL(None, use_errno=True)
    start, size = records.ctypes.data, records.nbytes
    pages = (ctypes.c_ubyte * (size // PAGE))()
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages):
        pytest.skip(f"mincore: {os.strerror(ctypes.get_errno())}")
    present = np.frombuffer(pages, np.uint8) & 1
    return present.reshape(records.shape[0], -1).mean(1)


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and fadvise")
def test_a_token_brings_in_its_experts_alone(
    tmp_path: Path, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(quantized(DEMO, "bf16"), tmp_path / "m")
    with Engine.open(folder) as engine:
        for file in folder.glob("experts-*"):  # after opening, which reads headers and what lies ahead of them
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        layers = [engine.model.expert_layer(n) for n in engine.model.expert_layers]
        if any(resident(layer.records).any() for layer in layers):
            pytest.skip("this file system does not let pages go")
        active = {}

        def recorded(store: MappedExperts, layer: int, experts: np.ndarray) -> Iterator[Group]:
            active[layer] = set(experts.tolist())
            return original(store, layer, experts)

        original = MappedExperts.fetch
        monkeypatch.setattr(MappedExperts, "fetch", recorded)
        engine.session().advance([5])
        for layer in layers:
            present = resident(layer.records)
            others = [e for e in range(present.size) if e not in active[layer.layer]]
            assert all(present[e] == 1 for e in active[layer.layer])
            assert not present[others].any()


class AtOnce:
    """A pool of threads that does what it is given before it goes on."""

    def __init__(self, *_: object) -> None: ...

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        work(*arguments)

    def shutdown(self, **_: object) -> None: ...


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and fadvise")
def test_most_of_a_layer_is_brought_in_before_it_is_used(
    tmp_path: Path, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model(copy_of(quantized(DEMO, "bf16"), tmp_path / "m"))
    layer = model.expert_layer(3)
    count = layer.records.shape[0]
    with layer.path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(layer.records).any():
        pytest.skip("this file system does not let pages go")
    monkeypatch.setattr(prefault, "ThreadPoolExecutor", AtOnce)
    store = MappedExperts(model)
    wanted = np.arange((count + 1) // 2, dtype=np.int32)
    store.fetch(3, wanted)
    if not resident(layer.records)[0]:
        pytest.skip("Linux before 5.14")
    assert (resident(layer.records)[wanted] == 1).all()
    store.close()


def test_no_thread_is_left(quantized: Quantized) -> None:
    store = MappedExperts(open_model(quantized(DEMO, "int4")))
    store.fetch(3, np.arange(store.records(3).records.shape[0], dtype=np.int32))
    store.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prefault")]


def test_the_store_hands_out_records_in_place(quantized: Quantized) -> None:
    model = open_model(quantized(DEMO, "int4"))
    store = MappedExperts(model)
    ((records, members, slots),) = store.fetch(3, np.array([7, 2], np.int32))
    assert members.tolist() == [0, 1]
    assert np.array_equal(records[slots[0]], model.expert_layer(3).records[7])
    assert not records.flags.writeable
    assert not records.flags.owndata
