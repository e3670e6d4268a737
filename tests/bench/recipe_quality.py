"""What each recipe changes: KL divergence from the reference's logits and top-1 agreement, on the recorded checkpoints.

    python -m tests.bench.recipe_quality

The checkpoints are tiny and random, so that their logits are flatter and their matrices narrower than a trained
model's: the numbers compare recipes and families, and are no forecast.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from cpu_runtime import Engine
from tests import reference
from tests.conftest import FIXTURES, quantize
from tests.recordings import CHECKPOINTS, logits

RECIPES = ("bf16", "int8", "int4-large", "int4", "int4-small")


def compare(found: np.ndarray, recorded: np.ndarray) -> tuple[float, float, float]:
    """(mean and median KL divergence of a token in nats, share of tokens with the same top-1)."""
    kl, _, _, same = reference.divergence(recorded, found, np.zeros(len(found), np.int64)).T
    return float(kl.mean()), float(np.median(kl)), float(same.mean())


def main() -> None:
    """Measure and print a table."""
    print("| checkpoint |", " | ".join(f"{recipe}: KL mean, median, top-1" for recipe in RECIPES), "|")
    print("|---|" + "---|" * len(RECIPES))
    for name in CHECKPOINTS:
        recorded = np.load(FIXTURES / name / "recorded.npz")
        cells = []
        for recipe in RECIPES:
            with tempfile.TemporaryDirectory() as scratch:
                folder = quantize(FIXTURES / name, recipe, Path(scratch) / "model")
                with Engine.open(folder) as engine:
                    mean, median, same = compare(logits(engine, recorded["ids"]), recorded["logits"])
            cells.append(f"{mean:.4f}, {median:.4f}, {100 * same:.0f} %")
        print("|", " | ".join([name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
