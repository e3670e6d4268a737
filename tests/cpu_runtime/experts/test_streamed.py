"""Streamed experts: the same bits as mapped ones whatever there is room for."""

from __future__ import annotations

import mmap
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine
from cpu_runtime.experts.foresight import Foresight
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.streamed import Statistics, StreamedExperts
from cpu_runtime.layers.ahead import looking_ahead
from quant.container import QuantizedModel
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.cpu_runtime.experts.streaming import fetched, logits, readers, replace_store


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize(
    ("checkpoint", "recipe"),
    [(DEMO, "int4"), (FIXTURES / "deepseek_v3_fp8", "int8"), (FIXTURES / "qwen3_5_fused", "bf16")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_number_of_slots_gives_the_same_bits(quantized: Quantized, checkpoint: Path, recipe: str) -> None:
    folder = quantized(checkpoint, recipe)
    with Engine.open(folder) as engine:
        expected = logits(engine)
        all_of_them = sum(engine.model.expert_layer(n).records.shape[0] for n in engine.model.expert_layers)
        for slots in sorted({1, 2, 3, 7, all_of_them // 2, all_of_them}):
            store = StreamedExperts(engine.model, slots)
            replace_store(engine, store)
            assert np.array_equal(logits(engine), expected), slots
            counted = store.statistics
            if slots == all_of_them:  # each is read once at most
                assert counted.bytes_read <= slots * store.records(engine.model.expert_layers[0]).records.shape[1]
                assert counted.hits > counted.misses
            store.close()


def test_what_was_used_last_is_kept(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 3 * len(model.expert_layers))
    for layer in model.expert_layers:
        list(fetched(store, layer, [0, 1, 2]))
    store.statistics = Statistics()
    for layer, experts, misses in [
        (0, [1], 0),
        (0, [3], 1),  # takes the place of 0, and of nothing in another layer
        (0, [1, 2], 1),
        (0, [0], 2),  # takes the place of 3
        (0, [1, 2, 0], 2),
        (0, [3, 4, 5, 6, 7], 7),  # more than a share
        (1, [2], 7),
    ]:
        assert sorted(expert for expert, _ in fetched(store, layer, experts)) == sorted(experts)
        assert store.statistics.misses == misses
    assert store.statistics.hits == 7
    assert store.statistics.bytes_read == 7 * store.records(0).records.shape[1]
    store.close()


def test_layers_in_turns_keep_their_share(model: QuantizedModel) -> None:
    """Uniform routing: the share of hits is the share of experts held, where one order for all layers gets less."""
    layers, random = model.expert_layers, np.random.default_rng(0)
    count = model.expert_layer(layers[0]).records.shape[0]
    store = StreamedExperts(model, len(layers) * count // 4)
    for token in range(200):
        if token == 20:
            store.statistics = Statistics()
        for layer in layers:
            list(fetched(store, layer, random.permutation(count)[: count // 8].tolist()))
    assert store.statistics.hits / (store.statistics.hits + store.statistics.misses) == pytest.approx(0.25, abs=0.03)
    store.close()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="memory goes with the last array here")
@pytest.mark.usefixtures("reads")
def test_closing_gives_memory_back_whoever_holds_the_store(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 8)
    list(fetched(store, 2, [5, 1, 4]))
    records = store._arena.records
    assert records.any()
    store.close()
    assert not records.any()
    store.close()


def test_one_group_where_everything_is_there_and_hits_come_first(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 8)
    list(fetched(store, 2, [5, 1, 4]))
    (group,) = store.fetch(2, np.array([1, 4, 5], np.int32))
    assert group.members.tolist() == [0, 1, 2]
    first, *_ = store.fetch(2, np.array([0, 1, 2, 5], np.int32))
    assert first.members.tolist() == [1, 3]
    store.close()


@pytest.mark.usefixtures("reads")
@pytest.mark.parametrize("slots", [1, 5, 9])
def test_random_calls_from_many_threads_at_once(model: QuantizedModel, slots: int) -> None:
    mapped = MappedExperts(model)
    faults: list[str] = []

    def work(seed: int) -> None:
        random, store = np.random.default_rng(seed), StreamedExperts(model, slots, verify=slots == 5)
        for _ in range(150):
            layer = int(random.choice(model.expert_layers))
            count = mapped.records(layer).records.shape[0]
            experts = random.permutation(count)[: random.integers(1, count)].tolist()
            broken_off = random.integers(0, len(experts)) if random.random() < 0.2 else len(experts)
            come = []
            for expert, record in fetched(store, layer, experts):
                come.append(expert)
                if not np.array_equal(record, mapped.records(layer).records[expert]):
                    faults.append(f"{seed}: expert {expert} of layer {layer}")
                if len(come) == broken_off:
                    break
            else:
                if sorted(come) != sorted(experts):
                    faults.append(f"{seed}: asked for {experts}, got {come}")
        store.close()

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults
    assert not readers()


@pytest.mark.usefixtures("reads")
def test_guesses_change_nothing_but_what_is_read_when(quantized: Quantized) -> None:
    with Engine.open(quantized(DEMO, "int4")) as engine:
        expected = logits(engine)
        layers = len(engine.model.expert_layers)
        for slots in (1, 8, 5 * layers):
            store = StreamedExperts(engine.model, slots)
            replace_store(engine, store)
            engine.decoder = replace(engine.decoder, blocks=looking_ahead(engine.decoder.blocks))
            for _ in range(2):
                assert np.array_equal(logits(engine), expected), slots
            counted = store.statistics
            assert counted.guessed >= counted.guessed_right
            asked = counted.hits + counted.misses
            store.close()
        assert counted.guessed_right > counted.guessed / 2
        assert asked == counted.hits + counted.misses  # a record counts once, guessed or not
        assert counted.bytes_read <= (counted.misses + counted.guessed) * store.records(0).records.shape[1]


@pytest.mark.usefixtures("reads")
def test_a_token_reads_three_guesses_that_are_not_there(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 4 * len(model.expert_layers))
    list(fetched(store, 1, [0, 1]))
    groups = store.fetch(0, np.array([2, 3], np.int32))
    store.expect(1, np.array([1, 0, 7, 2, 3, 4, 5], np.int32), 1)
    list(groups)
    assert store.statistics.guessed == 3
    list(fetched(store, 1, [0, 7, 2, 3, 4]))
    assert store.statistics.guessed_right == 3
    assert store.statistics.hits == 1  # what was read on a guess counts as missed
    store.close()


def test_guesses_that_are_wrong_are_given_up() -> None:
    foresight = Foresight()
    guess = np.array([5, 6, 7], np.int32)
    assert foresight.likely(3, guess, 1).tolist() == [5, 6, 7]
    for _ in range(20):
        foresight.asked(3, np.array([7, 5]))
        likely = foresight.likely(3, guess, 1).tolist()
    assert likely == [5, 7]
    assert foresight.likely(3, guess, 100).tolist() == [5, 6, 7]  # a prompt's are another matter
    foresight.asked(2, guess)  # another layer says nothing about this one
    assert foresight.likely(2, guess, 1).tolist() == [5, 6, 7]


@pytest.mark.usefixtures("reads")
def test_a_prompt_reads_each_expert_once_a_chunk(model: QuantizedModel) -> None:
    layers = model.expert_layers
    count = model.expert_layer(0).records.shape[0]
    everyone = np.arange(count, dtype=np.int32)
    for slots in (2, len(layers) * count // 2):
        store = StreamedExperts(model, slots)
        for _ in range(2):
            missing, before = len(layers) * count - _held(store), store.statistics.bytes_read
            for layer in layers:
                groups = store.fetch(layer, everyone, np.full(count, 16), 64)
                if layer + 1 in layers:
                    store.expect(layer + 1, everyone, 64)
                assert sorted(m for group in groups for m in group.members.tolist()) == everyone.tolist()
            read = (store.statistics.bytes_read - before) // store.records(0).records.shape[1]
            # Some of what is kept leaves before its turn, for reads of the layers before it to be under way.
            assert read <= min(missing + 16, len(layers) * count), (slots, read, missing)
        store.close()


def _held(store: StreamedExperts) -> int:
    return sum(residence.held for residence in store._layers.values())


def test_what_a_prompt_used_most_stays(model: QuantizedModel) -> None:
    store = StreamedExperts(model, 4 * len(model.expert_layers))
    uses = np.array([1, 9, 1, 1, 8, 1, 1, 7, 1, 1], np.int64)
    for layer in model.expert_layers:
        list(store.fetch(layer, np.arange(10, dtype=np.int32), uses, 10))
    store.statistics = Statistics()
    for layer in model.expert_layers:
        list(store.fetch(layer, np.array([1, 4, 7], np.int32)))
    assert store.statistics.misses <= 3
    store.close()


def test_memory_is_given_back(model: QuantizedModel) -> None:
    layers = model.expert_layers
    store = StreamedExperts(model, 4 * len(layers))
    for layer in layers:
        list(fetched(store, layer, [0, 1, 2, 3]))
    size = store.bytes // store.slots
    assert store.give_back(size + 1) == 2 * size
    assert store.slots == 4 * len(layers) - 2
    assert not store._arena.records[store._given_back].any()
    mapped = model.expert_layer(0).records
    for _ in range(3):
        for expert, record in fetched(store, 0, [0, 1, 2, 3, 4, 5]):
            assert np.array_equal(record, mapped[expert])
    store.give_back(1 << 40)
    assert store.slots == len(layers)  # it can go on with these
    for expert, record in fetched(store, 0, [0, 1, 2, 3, 4, 5]):
        assert np.array_equal(record, mapped[expert])
    groups = store.fetch(1, np.arange(6, dtype=np.int32))
    next(groups)
    list(fetched(store, 1, [7]))  # after one that was broken off, too
    assert store.slots == len(layers)
    store.close()
