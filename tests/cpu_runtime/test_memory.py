"""The budget: what it is found from, how it is divided, and that a process stays under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import Engine, footprint, heap, memory
from cpu_runtime.cgroup import memory_room
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.streamed import StreamedExperts
from cpu_runtime.pressure import Pressure
from cpu_runtime.session import PREFILL_CHUNK
from quant.container import open_model
from quant.errors import CheckpointError, ResourceError
from tests.checkpoints import copy_of
from tests.conftest import DEMO, FIXTURES, ROOT, Quantized
from tests.published import MINIMAX_M25, scaled
from tests.synth import write_model

IDS = [5, 6, 7, 8, 9, 10]


def group(folder: Path, version: int, limit: str, used: int, cached: int) -> None:
    """A control group's files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"{prefix}inactive_file {cached}\n{prefix}active_file 1\nanon 7\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_group_counts(tmp_path: Path, version: int) -> None:
    own, mount = tmp_path / "own", tmp_path / "memory" if version == 1 else tmp_path
    own.write_text("4:cpu,memory:/a/b\n0::/\n" if version == 1 else "0::/a/b\n")
    none = "max" if version == 2 else str(2**63 - 4096)
    group(mount / "a" / "b", version, none, 10, 0)
    group(mount / "a", version, none, 10, 0)
    assert memory_room(tmp_path, own) is None
    group(mount / "a", version, "1000", 900, 200)
    assert memory_room(tmp_path, own) == 1000 - 900 + 201
    group(mount / "a" / "b", version, "500", 450, 50)
    assert memory_room(tmp_path, own) == 500 - 450 + 51


def test_a_container_shows_its_group_at_the_mount(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/path/outside\n")
    group(tmp_path, 2, "800", 100, 0)
    assert memory_room(tmp_path, own) == 701
    assert memory_room(tmp_path, tmp_path / "missing") is None


def test_a_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_room", lambda: 12345)
    assert memory.available_bytes() == 12345


def room_for(engine: Engine, slots: int) -> int:
    """The budget of this process, as it is now, that leaves room for so many experts beside the shortest chunk."""
    d = engine.division
    scratch = d.scratch - (d.chunk - PREFILL_CHUNK) * footprint.of_model(engine.model).token_bytes
    return memory.process_bytes() + d.dense + d.caches + scratch + slots * d.slot + d.slot // 2


def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not grow between one look and the next."""
    now = memory.process_bytes()
    monkeypatch.setattr(memory, "process_bytes", lambda: now)


def test_engines_leave_nothing_behind(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quantized(DEMO, "int4")
    pinned(monkeypatch)
    with Engine.open(folder, context=64) as engine:
        budget = room_for(engine, 40)
    before = len(os.listdir("/dev/fd"))
    for _ in range(10):
        with Engine.open(folder, context=64, memory_bytes=budget) as small:
            small.session().advance(IDS)
            assert isinstance(small.store, StreamedExperts)
    assert not any(thread.name.startswith("moe-read") for thread in threading.enumerate())
    del small
    assert len(os.listdir("/dev/fd")) <= before


@pytest.mark.skipif(heap._glibc() is None, reason="another C library")
def test_what_was_let_go_of_before_does_not_count_as_taken(quantized: Quantized) -> None:
    folder = quantized(DEMO, "int4")
    with Engine.open(folder, context=64):
        np.ones(1 << 25)  # 256 MiB, which the C library keeps for arrays to come
        held = memory.process_bytes()
        with Engine.open(folder, context=64) as engine:
            assert engine.division.process < held - (200 << 20)


@pytest.mark.parametrize("checkpoint", [DEMO, FIXTURES / "kimi_k2_fp8"], ids=lambda path: path.name)
def test_streamed_where_the_model_does_not_fit(
    quantized: Quantized, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = quantized(checkpoint, "int4")
    pinned(monkeypatch)
    with Engine.open(folder, context=64) as engine:
        assert isinstance(engine.store, MappedExperts)
        assert engine.kept_experts_bytes is None
        expected = np.concatenate(list(engine.logits(IDS)))
        least = engine.division.least_slots
    for slots in (least, least + 3):
        with Engine.open(folder, context=64, memory_bytes=room_for(engine, slots)) as small:
            assert isinstance(small.store, StreamedExperts)
            assert small.store.slots == slots
            assert small.kept_experts_bytes == slots * small.division.slot
            assert np.array_equal(np.concatenate(list(small.logits(IDS))), expected)
    with pytest.raises(ResourceError, match=rf"at least \d+ MiB .* {least} experts .* were given") as raised:
        Engine.open(folder, context=64, memory_bytes=room_for(engine, least - 1))
    assert raised.value.exit_code == 5
    assert raised.value.hint is not None
    assert "--memory" in raised.value.hint


def test_what_is_free_is_the_budget_where_none_is_given(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quantized(DEMO, "int4")
    pinned(monkeypatch)
    with Engine.open(folder, context=64) as engine:
        least = room_for(engine, 20) - memory.process_bytes()
    monkeypatch.setattr(memory, "available_bytes", lambda: least + 512 * memory.MIB)
    with Engine.open(folder, context=64) as small:
        assert isinstance(small.store, StreamedExperts)
    monkeypatch.setattr(memory, "available_bytes", lambda: least)
    with Engine.open(folder, context=64, memory_bytes=1 << 40) as capped:  # more than there is
        assert capped.division.total == memory.process_bytes() + least


def test_the_default_window_shrinks_before_experts_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 256, "num_local_experts": 32}
    folder = write_model(scaled(MINIMAX_M25, vocab_size=512, **small), tmp_path / "m")
    pinned(monkeypatch)
    with Engine.open(folder, context=4096) as engine:
        budget = room_for(engine, 20)
    with Engine.open(folder, memory_bytes=budget) as crowded:
        assert crowded.context == 4096
    with Engine.open(folder) as roomy:
        assert roomy.context == 32_768
    with pytest.raises(ResourceError, match="caches of 32768 tokens"):
        Engine.open(folder, context=32_768, memory_bytes=budget)


def test_a_store_gives_memory_back_where_it_runs_short(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Store:
        def give_back(self, size: int) -> int:
            given.append(size)
            return size

    free, now, kept = 100 * memory.MIB, 0.0, 0

    def arrays_go() -> None:
        nonlocal free, kept
        free, kept = free + kept, 0

    monkeypatch.setattr(heap, "give_back", arrays_go)
    pressure = Pressure(Store(), 32 * 64 * memory.MIB, lambda: free, lambda: now)
    pressure.relieve()
    assert given == []  # 64 MiB would be short
    free = 40 * memory.MIB
    pressure.relieve()
    assert given == []  # not looked at again so soon
    now = 1.5
    pressure.relieve()
    pressure.relieve()
    assert given == [88 * memory.MIB]
    now, kept = 3.0, 30 * memory.MIB
    pressure.relieve()
    assert given == [88 * memory.MIB]  # what was held for arrays was enough
    now, free, kept = 4.5, 40 * memory.MIB, 10 * memory.MIB
    pressure.relieve()
    assert given == [88 * memory.MIB, 78 * memory.MIB]  # records only for what was still wanting


def test_short_memory_between_tokens_changes_no_bit(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quantized(DEMO, "int4")
    pinned(monkeypatch)
    with Engine.open(folder, context=64) as engine:
        expected = engine.decoder.logits(np.concatenate([engine.session().advance(IDS)]))
    with Engine.open(folder, context=64, memory_bytes=room_for(engine, 40)) as small:
        assert isinstance(small.store, StreamedExperts)
        clock = iter(range(100))
        short = small.division.slot * 3
        small.pressure = Pressure(small.store, 32 * short, lambda: short - 1, lambda: float(next(clock)))
        session = small.session()
        rows = [session.advance([token]).copy() for token in IDS]
        assert np.array_equal(small.decoder.logits(np.concatenate(rows)), expected)
        assert small.store.slots < 40


def test_longer_chunks_where_experts_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 512}
    folder = write_model(scaled(MINIMAX_M25, num_local_experts=64, vocab_size=512, **sizes), tmp_path / "m")
    pinned(monkeypatch)
    monkeypatch.setattr(memory, "_CHUNK_SHARE", 1)  # these experts are small beside a token's arrays
    ids = np.random.default_rng(0).integers(0, 512, 600).tolist()
    with Engine.open(folder, context=2048) as engine:
        expected = engine.session().advance(ids)[-1]
        budget = room_for(engine, 8 * 48)
    with Engine.open(folder, context=2048, memory_bytes=budget) as small:
        assert isinstance(small.store, StreamedExperts)
        assert small.chunk > PREFILL_CHUNK
        assert small.division.slots(2048) < 8 * 48
        assert np.array_equal(small.session().advance(ids)[-1], expected)
    with Engine.open(folder, context=256, memory_bytes=budget) as narrow:
        assert narrow.chunk == PREFILL_CHUNK


def test_a_dense_file_that_ends_too_early(quantized: Quantized, tmp_path: Path) -> None:
    model = open_model(copy_of(quantized(DEMO, "int4"), tmp_path / "m"))
    with (model.path / "dense.safetensors").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(CheckpointError, match=r"dense.safetensors: it ends \d+ bytes too early"):
        model.keep_dense()


CHILD = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
from cpu_runtime import Engine
from cpu_runtime.experts.streamed import StreamedExperts

def status(key):
    return next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith(key))

peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, status("VmRSS"))
        time.sleep(0.05)

threading.Thread(target=watch, daemon=True).start()
folder = Path(sys.argv[1])
with Engine.open(folder, context=512) as engine:
    d = engine.division
budget = d.process + d.dense + d.caches + d.scratch + d.experts // 2
with Engine.open(folder, context=512, memory_bytes=budget) as engine:
    assert isinstance(engine.store, StreamedExperts)
    engine.warm_up()
    session, random = engine.session(), np.random.default_rng(0)
    session.advance(random.integers(0, engine.vocab_size, 200).tolist())
    for token in random.integers(0, engine.vocab_size, 300).tolist():
        hidden = session.advance([token])
        engine.decoder.logits(hidden)
    print(json.dumps({"budget": budget, "sampled": peak, "peak": status("VmHWM"), "swapped": status("VmSwap"),
        "experts": d.experts, "misses": engine.store.statistics.misses}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("kernels", ["cached", "compiled"])
def test_a_process_stays_under_its_budget(tmp_path: Path, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 300 MB model through 200 tokens at once and 300 one by one, with half of its experts in memory."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 10, "intermediate_size": 512, "vocab_size": 60_000}
    folder = write_model(scaled(MINIMAX_M25, num_local_experts=64, **sizes), tmp_path / "m")
    if kernels == "compiled":
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    done = subprocess.run([sys.executable, "-c", CHILD, folder], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["misses"] > 0
    assert max(found["sampled"], found["peak"]) <= found["budget"], found
    assert found["swapped"] == 0
