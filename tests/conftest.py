"""What tests share: the small checkpoints of this repository, quantized once for each worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from cpu_runtime import plan_for
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.recipe import load_recipe

# What a shell starts in the background ignores interrupts, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
DEMO = ROOT / "cli" / "demo"

# Read by OpenMP on the first parallel kernel. The workers share the cores: a thread that spins while it waits, as it
# may alone, takes the core from the one it waits for (measured: ten times slower).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples in every run: what decides must not depend on luck. HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

Quantized = Callable[[Path, str], Path]


def quantize(checkpoint: Path, recipe: str, out: Path) -> Path:
    """A folder converted by a recipe."""
    with Checkpoint.open(checkpoint) as opened:
        return convert(opened, plan_for(opened.config, opened.names), load_recipe(recipe), out)


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantized:
    """quantized(checkpoint, recipe): its folder, made on first use; not to be changed."""
    made: dict[tuple[Path, str], Path] = {}

    def get(checkpoint: Path, recipe: str) -> Path:
        key = checkpoint, recipe
        if key not in made:
            made[key] = quantize(checkpoint, recipe, tmp_path_factory.mktemp("models") / f"{checkpoint.name}-{recipe}")
        return made[key]

    return get


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MOE_HOME", str(folder))
    return folder
