"""A model and its mirror, read at once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.experts import reads as reading
from cpu_runtime.experts.copies import Copies, open_mirror
from cpu_runtime.experts.drive import Copy
from cpu_runtime.experts.streamed import StreamedExperts
from quant.container import QuantizedModel, open_model
from quant.errors import CheckpointError, UsageError
from tests.checkpoints import copy_of
from tests.conftest import DEMO, Quantized
from tests.cpu_runtime.experts.streaming import fetched, logits, replace_store


def test_a_read_goes_to_the_copy_that_would_have_it_soonest() -> None:
    copies = Copies([Copy({}, 3.5), Copy({}, 1.0)], clock=lambda: 0.0)
    assert [copies.begin(6) for _ in range(7)] == [0, 0, 0, 1, 0, 0, 0]
    copies.end(1, 6)
    assert copies.begin(6) == 1
    copies.end_all()
    assert [copies.begin(6) for _ in range(4)] == [0, 0, 0, 1]


def test_a_drive_that_has_become_slow_is_read_less() -> None:
    now = 0.0
    copies = Copies([Copy({}, 1e9), Copy({}, 1e9)], clock=lambda: now)
    size, taken = 10**7, [0, 0]
    for _ in range(200):
        begun = [copies.begin(size) for _ in range(4)]
        spent = [0.0, 0.0]
        for copy in begun:
            spent[copy] += size / (1e9 if copy else 1e8)  # the first one is ten times slower than it was
            taken[copy] += 1
        start = now
        for copy in sorted(begun, key=lambda copy: spent[copy]):
            now = max(now, start + spent[copy])
            copies.end(copy, size)
    assert taken[1] > 3 * taken[0]


@pytest.fixture
def mirror(model: QuantizedModel, tmp_path: Path) -> QuantizedModel:
    return open_mirror(copy_of(model.path, tmp_path / "mirror"), model)


@pytest.mark.usefixtures("reads")
def test_both_are_read_and_give_the_same_bits(
    model: QuantizedModel, mirror: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from: set[int] = set()
    begin = Copies.begin

    def noted(copies: Copies, size: int) -> int:
        read_from.add(copy := begin(copies, size))
        return copy

    monkeypatch.setattr(Copies, "begin", noted)
    with Engine.open(model.path) as engine:
        expected = logits(engine)
        store = StreamedExperts(engine.model, 12, mirror=mirror)
        replace_store(engine, store)
        assert np.array_equal(logits(engine), expected)
        store.close()
    assert read_from == {0, 1}


def test_an_engine_takes_a_mirror(quantized: Quantized, mirror: QuantizedModel) -> None:
    folder = quantized(DEMO, "int4")
    with Engine.open(folder, mirror=mirror.path) as engine:
        assert engine.session().advance([1, 2]).shape[0] == 2


@pytest.mark.usefixtures("reads")
def test_a_mirror_that_comes_short_is_named(
    model: QuantizedModel, mirror: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copies, "begin", lambda *_: 1)
    store = StreamedExperts(model, 4, mirror=mirror)
    os.truncate(mirror.expert_layer(0).path, mirror.expert_layer(0).offset + 100)
    with pytest.raises(CheckpointError, match=rf"{mirror.path}/experts-000.safetensors: expert \d of layer 0: "):
        list(fetched(store, 0, [0, 1, 2]))
    store.close()


def test_checksums_of_both_are_compared(
    model: QuantizedModel, mirror: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = mirror.expert_layer(0)
    with layer.path.open("r+b") as file:
        file.seek(layer.offset + 200)
        file.write(bytes([int(layer.records[0, 200]) ^ 1]))
    store = StreamedExperts(model, 1, verify=True, mirror=mirror)
    assert isinstance(store._reads, reading.ThreadedReads)
    copy = iter([0, 0, 1])
    monkeypatch.setattr(Copies, "begin", lambda *_: next(copy))
    list(fetched(store, 0, [0]))  # from the model
    list(fetched(store, 0, [1]))
    with pytest.raises(
        CheckpointError, match=rf"{mirror.path}/experts-000.safetensors: expert 0 of layer 0 is damaged"
    ):
        list(fetched(store, 0, [0]))  # from its mirror
    store.close()


def test_another_model_is_no_mirror(quantized: Quantized, model: QuantizedModel) -> None:
    other = quantized(DEMO, "int8")
    with pytest.raises(UsageError, match="holds another model") as error:
        open_mirror(other, model)
    assert error.value.exit_code == 2
    assert open_model(other).manifest != model.manifest
