"""Only what a token needs is read: the pages of the experts it activates, large ones where there are any."""

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
from quant.large_pages import SIZE
from tests.bench.cold import forget
from tests.checkpoints import copy_of
from tests.conftest import DEMO, Quantized
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

PAGE = mmap.PAGESIZE


def resident_pages(records: np.ndarray) -> np.ndarray:
    """Whether each page of a layer's records is in memory, by `mincore`."""
    libc = ctypes.CDLL(None, use_errno=True)
    start, size = records.ctypes.data, records.nbytes
    pages = (ctypes.c_ubyte * (size // PAGE))()
    if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), pages):
        pytest.skip(f"mincore: {os.strerror(ctypes.get_errno())}")
    return np.frombuffer(pages, np.uint8) & 1 == 1


def resident(records: np.ndarray) -> np.ndarray:
    """The share of each expert's pages that is in memory."""
    return resident_pages(records).reshape(records.shape[0], -1).mean(1)


@pytest.mark.skipif(sys.platform != "linux", reason="mincore and fadvise")
def test_a_token_brings_in_its_experts_and_the_large_pages_they_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"hidden_size": 1024, "intermediate_size": 1024, "num_local_experts": 32, "num_experts_per_tok": 2}
    config = scaled(MINIMAX_M25, **shapes, num_hidden_layers=1, vocab_size=64, num_attention_heads=8)
    folder = write_model(config, tmp_path / "m")
    with Engine.open(folder) as engine:
        forget(folder)  # after opening, which reads headers and what lies ahead of them
        layer = engine.model.expert_layer(0)
        if resident(layer.records).any():
            pytest.skip("this file system does not let pages go")
        active: list[int] = []

        def recorded(store: MappedExperts, layer: int, experts: np.ndarray) -> Iterator[Group]:
            active.extend(experts.tolist())
            return original(store, layer, experts)

        original = MappedExperts.fetch
        monkeypatch.setattr(MappedExperts, "fetch", recorded)
        engine.session().advance([5])
        present = resident_pages(layer.records)
        large_page = (layer.offset // PAGE + np.arange(present.size)) // (SIZE // PAGE)
        theirs = np.zeros((layer.records.shape[0], present.size // layer.records.shape[0]), bool)
        theirs[active] = True
        assert present[theirs.reshape(-1)].all()
        others = ~np.isin(large_page, large_page[theirs.reshape(-1)])
        assert others.sum() > present.size // 2
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
    forget(layer.path)
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
