"""That what is measured of layers and of a drive are rates, and that a drive is left as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import drive, rates
from quant.container import open_model
from quant.errors import ResourceError
from tests.conftest import DEMO, Quantized


def test_all_that_layers_do_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "BEYOND_CACHES", 1 << 20)
    monkeypatch.setattr(rates, "_PRODUCTS", 1 << 24)
    monkeypatch.setattr(rates, "roofs", lambda: (2e10, 1e12))
    found = rates.rates(1, ("q4", "bf16"))
    assert list(found.matrices) == list(found.experts) == ["q4", "bf16"]
    for rate in (*found.matrices.values(), *found.experts.values()):
        assert len(rate.many) == len(rates.COUNTS)
        assert min(rate.one, *rate.many) > 0
    assert min(found.cache, found.attention, found.launch) > 0
    assert np.isfinite([found.cache, found.attention, found.launch]).all()


def test_a_drive_is_left_as_it_was(tmp_path: Path) -> None:
    found = drive.of_folder(tmp_path)
    assert found.rate > 0
    assert found.latency >= 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(ResourceError, match="nowhere"):
        drive.of_folder(tmp_path / "nowhere")


def test_the_drive_of_a_model(quantized: Quantized) -> None:
    found = drive.of_model(open_model(quantized(DEMO, "int4")))
    assert found.rate > 0
    assert found.seconds(0) == 0
    assert found.seconds(found.rate) == pytest.approx(1 + found.latency)
