"""A generated token takes no memory that an earlier one did not take: neither arrays of layers nor of kernels."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher
from numba.core.runtime import _nrt_python, rtsys

from cpu_runtime import Engine
from cpu_runtime.session import Session
from cpu_runtime.workspace import NEW, TokenWorkspace
from tests.published import PUBLISHED
from tests.synth import write_model
from tests.test_synth import small

ROW = 4 * 1024  # bytes of a row of activations in these models: more than Python's own objects take between layers


def test_arrays_are_handed_out_again_in_order() -> None:
    workspace = TokenWorkspace()
    kept = workspace.empty((1, 8))
    mark = workspace.mark()
    first, second = workspace.empty((1, 8)), workspace.empty((2, 3), np.int32)
    workspace.rewind(mark)
    assert workspace.empty((1, 8)) is first
    assert workspace.empty((2, 4), np.int32) is not second, "of another shape"
    workspace.rewind(mark)
    assert workspace.empty((1, 8)) is first
    assert workspace.empty((2, 3), np.int32) is second
    workspace.rewind(0)
    assert workspace.empty((1, 8)) is kept
    assert not np.shares_memory(kept, first)


@pytest.mark.parametrize("workspace", [NEW, TokenWorkspace()], ids=["new", "token"])
def test_arrays_begin_at_a_cache_line(workspace: TokenWorkspace) -> None:
    for shape, dtype in (((3, 5), np.float32), ((1, 7), np.int8), ((16, 16, 2), np.int16)):
        array = workspace.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0


def test_spare_memory_only_grows() -> None:
    workspace = TokenWorkspace()
    large = workspace.spare(100)
    assert workspace.spare(7) is large
    assert workspace.spare(101).size >= 101


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yields what will be [allocations of kernels' runtime, of these for the arrays that kernels are called with]."""
    counts = [0, 0]

    def counting(kernel: Any) -> Any:
        def call(*given: Any) -> Any:
            counts[1] += arrays(given)
            return kernel(*given)

        return call

    with monkeypatch.context() as patch:
        for module in [module for name, module in sys.modules.items() if name.startswith("cpu_runtime.")]:
            for name, value in list(vars(module).items()):
                if isinstance(value, Dispatcher):
                    patch.setattr(module, name, counting(value))
        _nrt_python.memsys_enable_stats()
        before = rtsys.get_allocation_stats().alloc
        yield counts
        counts[0] = rtsys.get_allocation_stats().alloc - before
        _nrt_python.memsys_disable_stats()


def arrays(given: Any) -> int:
    """How many arrays there are, for each of which the runtime keeps a note during a call."""
    if isinstance(given, tuple):
        return sum(map(arrays, given))
    return isinstance(given, np.ndarray)


def read(session: Session, token: int) -> None:
    assert np.isfinite(session.logits(session.advance([token]))).all()


@pytest.mark.parametrize(("name", "changed"), [*((name, {}) for name in PUBLISHED), ("GLM-5", {"index_topk": 16})])
def test_a_token_takes_no_memory(name: str, changed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(name) | {"hidden_size": ROW // 4} | changed
    with Engine.open(write_model(config, tmp_path / "model", sparse=True), context=300) as engine:
        session = engine.session()
        session.advance([1] * 20)
        for token in range(3):
            read(session, token)
        with counted(monkeypatch) as counts:
            read(session, 5)
        assert 0 < counts[0] == counts[1], "kernels' own arrays"
        tracemalloc.start()
        try:
            read(session, 6)  # Python's own caches
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            read(session, 7)
            peak = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert peak < ROW, "layers' arrays"
