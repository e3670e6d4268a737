"""Our engine, in a process of its own.

python -m tests.bench.llama.ours in_memory|half_memory REQUEST     JSON; the answer is the last line
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cpu_runtime import Engine, footprint
from cpu_runtime.experts.streamed import Statistics, StreamedExperts
from cpu_runtime.measure import Workload, run
from cpu_runtime.roofs import roofs
from quant.container import open_model
from quant.jit import set_threads
from tests.bench.cold import forget
from tests.bench.half_memory import drawn, drive_rate, lru_hit_rate


def in_memory(path: str, threads: int, tests: list[tuple[int, int, int]], repetitions: int) -> dict[str, Any]:
    """Tokens a second of every repetition of each test, after a round uncounted; and the machine's roofs.

    These are measured before and after, for memory's rate moves within minutes by as much as is asked about.
    """
    context = max(prompt + generated + depth for prompt, generated, depth in tests) + 1
    set_threads(threads)
    before = roofs()
    with Engine.open(Path(path), threads=threads, context=context) as engine:
        if engine.kept_experts_bytes is not None:
            raise SystemExit("the model does not fit in memory")
        engine.warm_up()
        rates = [run(engine, Workload(*test), 1 if test[2] else repetitions).rates for test in tests]
        weighs = footprint.of_model(engine.model)
        read, dot = ((first + second) / 2 for first, second in zip(before, roofs(), strict=True))
        return {
            "rates": rates,
            "read_roof": read,
            "dot_roof": dot,
            "token_bytes": weighs.always_bytes + weighs.routed_bytes,
            "token_products": weighs.products,
        }


def half_memory(
    path: str,
    threads: int,
    memory_bytes: int,
    kept: int,
    warm: int,
    tokens: int,
    prompt: int,
    foreseen: bool,
) -> dict[str, Any]:
    """Decode with drawn routing, then read a prompt; and what the store did in each."""
    forget(Path(path))  # here, not before: others may have read it while this process waited for its turn
    set_threads(threads)
    model = open_model(Path(path))
    before = drive_rate(model)
    with Engine(model, context=warm + tokens + prompt, memory_bytes=memory_bytes) as engine:
        store = engine.store
        if not isinstance(store, StreamedExperts):
            raise SystemExit("the model fits in the memory that it was given")
        record = model.expert_layer(model.expert_layers[0]).records.shape[1]
        routers = drawn(engine, store, kept, foreseen=foreseen)
        engine.warm_up()
        for router in routers:
            router.trace.clear()
        random = np.random.default_rng(0)
        decoded = _watched(engine, store, random.integers(0, engine.vocab_size, warm + tokens), 1, warm)
        lru = lru_hit_rate([router.trace for router in routers], store.slots, warm)
        found = {"decode": decoded | {"lru_hit_rate": lru}, "record_bytes": record, "slots": store.slots}
        if prompt:
            found["prefill"] = _watched(engine, store, random.integers(0, engine.vocab_size, prompt), engine.chunk, 0)
        found["direct"] = store.direct
    found["drive_rate"] = (before + drive_rate(model)) / 2
    return found


def _watched(engine: Engine, store: StreamedExperts, ids: np.ndarray, at_once: int, warm: int) -> dict[str, float]:
    """Read ids in a session of its own, `at_once` together; counted are those after the first `warm`."""
    session, start = engine.session(), perf_counter()
    for first in range(0, len(ids), at_once):
        if first == warm:
            store.statistics, start = Statistics(), perf_counter()
        session.logits(session.advance(ids[first : first + at_once].tolist()))
    seconds, counted = perf_counter() - start, store.statistics
    return {
        "tokens_s": (len(ids) - warm) / seconds,
        "seconds": seconds,
        "hits": counted.hits,
        "misses": counted.misses,
        "bytes_read": counted.bytes_read,
        "waited": counted.seconds_waited / seconds,
    }


if __name__ == "__main__":
    work: dict[str, Any] = {"in_memory": in_memory, "half_memory": half_memory}
    print(json.dumps(work[sys.argv[1]](**json.loads(sys.argv[2]))))
