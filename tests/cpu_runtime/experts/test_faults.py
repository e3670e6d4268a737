"""Streamed experts: loud where a record can't be had, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.experts import drive
from cpu_runtime.experts.arena import Arena
from cpu_runtime.experts.kernel_queue import KernelQueue
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.streamed import StreamedExperts
from quant.container import QuantizedModel, open_model
from quant.errors import CheckpointError
from quant.layout import PAGE
from tests.checkpoints import copy_of
from tests.conftest import DEMO, Quantized
from tests.cpu_runtime.experts.streaming import IDS, direct_works, fetched, logits, readers, replace_store


def broken_read(monkeypatch: pytest.MonkeyPatch, fault: str, at: int) -> None:
    """The `at`-th read from now on, counted from 0, fails or comes short, and again where it is tried again."""
    count, read, ended, lock = iter(range(10**9)), os.preadv, KernelQueue.ended, threading.Lock()
    tried: list[int] = []

    def results(queue: KernelQueue, *, wait: bool) -> list[tuple[int, int]]:
        found = ended(queue, wait=wait)
        for i, (name, _) in enumerate(found):
            if next(count) == at:
                tried.append(at)
                found[i] = name, {"error": -errno.EIO, "short": 100, "nothing": 0}[fault]
        return found

    def preadv(descriptor: int, buffers: Any, offset: int) -> int:
        with lock:
            now = next(count)
        if now != at and not tried:
            return read(descriptor, buffers, offset)
        if fault == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        buffers[0][:] = b"\xa5" * len(buffers[0])  # bytes came, but not all of them
        return {"short": 100, "nothing": 0}[fault]

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(KernelQueue, "ended", results)


@pytest.mark.parametrize(
    ("fault", "words"), [("error", "Input/output error"), ("short", "100 of"), ("nothing", "0 of")]
)
def test_a_failed_read_in_the_middle_of_decoding(
    quantized: Quantized, reads: str, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setattr(drive, "_seconds", lambda *_: 1.0)  # no slower: direct, where it works at all
    with Engine.open(quantized(DEMO, "int4")) as engine:
        expected = logits(engine)
        store = StreamedExperts(engine.model, 12)
        replace_store(engine, store)
        session = engine.session()
        session.advance(IDS[:24])
        if not store.direct:
            pytest.skip("no direct reads here; a buffered one may go on from anywhere")
        with monkeypatch.context() as patch:
            broken_read(patch, fault, 17)
            with pytest.raises(CheckpointError, match=rf"experts-\d+.safetensors: expert \d+ of layer \d+: {words}"):
                for token in IDS[24:]:
                    session.advance([token])
            assert session.tokens == []  # half a token is none
        assert np.array_equal(logits(engine), expected)  # what was not read whole is not taken for whole
        store.close()
    assert CheckpointError.exit_code == 6


@pytest.mark.usefixtures("reads")
def test_a_slot_that_could_not_be_filled_is_read_again(model: QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StreamedExperts(model, 4)
    with monkeypatch.context() as patch:
        broken_read(patch, "error", 1)
        with pytest.raises(CheckpointError):
            list(fetched(store, 0, [0, 1, 2, 3]))
    found = dict(fetched(store, 0, [0, 1, 2, 3]))
    mapped = model.expert_layer(0).records
    assert all(np.array_equal(found[expert], mapped[expert]) for expert in range(4))
    store.close()


def damaged(quantized: Quantized, tmp_path: Path) -> Path:
    """A copy of the demo model with one bit of one record of layer 1 changed."""
    folder = copy_of(quantized(DEMO, "int4"), tmp_path / "damaged")
    layer = open_model(folder).expert_layer(1)
    with layer.path.open("r+b") as file:
        at = layer.offset + 3 * layer.records.shape[1] + 200
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return folder


@pytest.mark.parametrize("store", [StreamedExperts, MappedExperts])
def test_a_checksum_is_compared_where_asked(quantized: Quantized, tmp_path: Path, store: Any) -> None:
    model = open_model(damaged(quantized, tmp_path))
    room = (8,) if store is StreamedExperts else ()
    trusting, careful = store(model, *room), store(model, *room, verify=True)
    list(fetched(trusting, 1, [2, 3]))
    list(fetched(careful, 1, [2, 4]))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"experts-001.safetensors: expert 3 of layer 1 is damaged"):
            list(fetched(careful, 1, [2, 3]))
    trusting.close()
    careful.close()


def test_buffered_where_direct_reads_are_refused(
    quantized: Quantized, model: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def refusing(path: Any, flags: int, *rest: Any) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    store = StreamedExperts(model, 4)
    assert not store.direct
    (found,) = fetched(store, 0, [5])
    assert np.array_equal(found[1], model.expert_layer(0).records[5])
    store.close()


@pytest.mark.parametrize("slower", [True, False])
def test_the_faster_way_to_read_is_taken(model: QuantizedModel, monkeypatch: pytest.MonkeyPatch, slower: bool) -> None:
    monkeypatch.setattr(drive, "_seconds", lambda files, *rest: 2.0 if files[0].direct == slower else 1.0)
    if not direct_works(model):
        pytest.skip("no direct reads here")
    store = StreamedExperts(model, 4)
    assert store.direct != slower
    store.close()


def test_nothing_is_left_behind(model: QuantizedModel, reads: str) -> None:
    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    StreamedExperts(model, 8).close()  # and the model has mapped its files
    before = descriptors()
    for _ in range(30):
        store = StreamedExperts(model, 8)
        list(fetched(store, 0, [0, 1, 2]))
        assert bool(readers()) == (reads == "threaded")
        store.close()
    assert not readers()
    assert descriptors() == before


@pytest.mark.usefixtures("reads")
def test_a_broken_off_call_leaves_no_thread(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 2)
    groups = store.fetch(0, np.arange(6, dtype=np.int32))
    next(groups)
    store.close()
    assert not readers()


def test_an_arena_is_page_aligned_and_read_only_to_kernels() -> None:
    arena = Arena(3, 2 * PAGE)
    assert arena.records.shape == (3, 2 * PAGE)
    assert not arena.records.flags.writeable
    for slot in range(3):
        arena.slot(slot, PAGE)[:] = slot + 1
        assert arena.slot(slot, PAGE).ctypes.data % PAGE == 0
    assert arena.records[:, 0].tolist() == [1, 2, 3]
