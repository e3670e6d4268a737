"""Kernels that were kept on disk, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant.jit import DISABLED

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(DISABLED, reason="nothing is compiled")

KERNELS = """
import sys
import numpy as np
from parts import plus
from quant.jit import kernel, parallel_kernel, prange, set_threads

@parallel_kernel
def add(x, y, out):
    room = np.zeros(x.size)
    for i in prange(x.size):
        room[i] = plus(x[i], y[i])
        out[i] = room[i]

@kernel
def total(x):
    found = 0.0
    for i in range(x.size):
        found += x[i]
    return found

@kernel
def mean(x):
    return total(x) / x.size

set_threads(2)
x = np.arange(1000.0)
out = np.zeros(1000)
add(x, x, out)
print(out[999], total(out))
print(*(sum(k.stats.cache_hits.values()) for k in (add, total)), "numba.np.linalg" in sys.modules)
if sys.argv[1:]:
    print(mean(out))
"""
PARTS = """
from quant.jit import inner

@inner
def plus(a, b):
    return a + b
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "parts.py").write_text(PARTS)
    return tmp_path


def said(folder: Path, *arguments: str) -> list[str]:
    """What the kernels answer, then how often each was found on disk and whether a compiler was set up."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}", "NUMBA_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "kernels.py", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_kernel_is_compiled_once_and_loaded_without_a_compiler(folder: Path) -> None:
    answer = "1998.0 999000.0"
    assert said(folder) == [answer, "0 0 True"]
    assert said(folder) == [answer, "1 1 False"]


def test_a_kernel_is_compiled_beside_one_that_was_loaded_and_may_call_it(folder: Path) -> None:
    said(folder)
    assert said(folder, "mean") == ["1998.0 999000.0", "1 1 False", "999.0"]


def test_a_kernel_is_compiled_again_when_a_source_beside_it_changes(folder: Path) -> None:
    said(folder)
    (folder / "parts.py").write_text(PARTS.replace("a + b", "a - b"))
    assert said(folder) == ["0.0 0.0", "0 0 True"]


def test_numba_does_not_bring_in_yaml_but_for_its_own_settings(folder: Path) -> None:
    pytest.importorskip("yaml")
    code = "import quant.jit, sys; seen = 'yaml' in sys.modules; import yaml; print(seen, bool(yaml.safe_load('1')))"
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    for expected in ("False True", "True True"):
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
        (folder / ".numba_config.yaml").write_text("{}")
