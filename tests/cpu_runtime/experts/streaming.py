"""What the tests of streamed experts share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cpu_runtime import Engine
from cpu_runtime.experts.record_file import RecordFile
from cpu_runtime.experts.streamed import StreamedExperts
from cpu_runtime.layers.moe import MoE
from quant.container import QuantizedModel

IDS = np.random.default_rng(3).integers(0, 100, 40).tolist()


def readers() -> list[str]:
    """Threads that read records."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("moe-read")]


def fetched(store: Any, layer: int, experts: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Each asked expert's number and record, in the order of their coming."""
    size = store.records(layer).records.shape[1]
    for records, members, slots in store.fetch(layer, np.array(experts, np.int32)):
        for member, slot in zip(members.tolist(), slots.tolist(), strict=True):
            yield experts[member], records[slot, :size]


def replace_store(engine: Engine, store: StreamedExperts) -> None:
    """Let every layer fetch from another store."""
    blocks = [
        replace(block, feed_forward=replace(block.feed_forward, store=store))
        if isinstance(block.feed_forward, MoE)
        else block
        for block in engine.decoder.blocks
    ]
    engine.decoder = replace(engine.decoder, blocks=blocks)


def logits(engine: Engine) -> np.ndarray:
    """Of a prompt at once, then of tokens one by one."""
    session = engine.session()
    rows = [session.advance(IDS[:24]), *(session.advance([token]).copy() for token in IDS[24:])]
    return engine.decoder.logits(np.concatenate(rows))


def direct_works(model: QuantizedModel) -> bool:
    """Whether the system reads the model's files past its cache."""
    try:
        RecordFile(model.expert_layer(0), direct=True).close()
    except OSError:
        return False
    return True
