"""A few hundred hostile files in every run, ten thousand in the slow one: see `tests/fuzz.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import python
from tests.conftest import FIXTURES, Quantized

FEW = 60  # of each kind
MANY = {
    "header": 3000,
    "index": 2000,
    "manifest": 2000,
    "stored header": 1000,
    "config": 1500,
    "report": 500,
    "statistics": 500,
}
STRIDE = 500  # cases of a process


def fuzz(kind: str, first: int, count: int, model: Path) -> None:
    result = python("from tests.fuzz import main; main()", kind, str(first), str(count), model, seconds=1200)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("kind", MANY)
def test_a_few_hundred(kind: str, quantized: Quantized) -> None:
    fuzz(kind, 0, FEW, quantized(FIXTURES / "qwen3_5_fused", "int4"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first"), [(k, at) for k, count in MANY.items() for at in range(0, count, STRIDE)])
def test_ten_thousand(kind: str, first: int, quantized: Quantized) -> None:
    fuzz(kind, first, STRIDE, quantized(FIXTURES / "qwen3_5_fused", "int4"))
