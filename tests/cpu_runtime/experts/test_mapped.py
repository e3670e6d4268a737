"""Only what a token needs is read: the pages of the experts it activates."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine
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


def test_the_store_hands_out_records_in_place(quantized: Quantized) -> None:
    model = open_model(quantized(DEMO, "int4"))
    store = MappedExperts(model)
    ((records, members, slots),) = store.fetch(3, np.array([7, 2], np.int32))
    assert members.tolist() == [0, 1]
    assert np.array_equal(records[slots[0]], model.expert_layer(3).records[7])
    assert not records.flags.writeable
    assert not records.flags.owndata
