"""A model of experts to stream, and the two ways to read them."""

from __future__ import annotations

import errno
import os

import pytest

from cpu_runtime.experts import drive
from cpu_runtime.experts.kernel_queue import KernelQueue
from quant.container import QuantizedModel, open_model
from tests.conftest import DEMO, Quantized
from tests.cpu_runtime.experts.streaming import direct_works


@pytest.fixture
def model(quantized: Quantized) -> QuantizedModel:
    return open_model(quantized(DEMO, "int4"))


@pytest.fixture(params=["queued", "threaded"])
def reads(request: pytest.FixtureRequest, model: QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way to read, whatever the drive and the system are better at."""
    if request.param == "queued":
        monkeypatch.setattr(drive, "_seconds", lambda *_: 1.0)  # no slower: direct, where it works at all
        try:
            KernelQueue().close()
        except OSError:
            pytest.skip("no queue of reads here")
        if not direct_works(model):
            pytest.skip("no direct reads here")
    else:
        monkeypatch.setattr(KernelQueue, "__init__", _refusing)
    return str(request.param)


def _refusing(*_: object) -> None:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
