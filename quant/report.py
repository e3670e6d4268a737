"""What quantizing did to each matrix: its relative error, summed up while it was encoded.

The relative error is the root of the squared differences between stored and source weights over the squared source
weights; -20 log10 of it is the signal-to-noise ratio in dB. A copied matrix, such as int4 kept as k4, has error 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quant import layout
from quant.checkpoint import read_json
from quant.errors import CheckpointError
from quant.formats import FORMATS
from quant.plan import Plan
from quant.recipe import Recipe
from quant.role_sizes import RoleSize, dense_bytes, role_sizes, total

REPORT = "report.json"
WORST = 10  # matrices that are named
_DIGITS = 4  # of an error: the sums themselves may differ in their last bits between CPUs


class Sums(dict[str, list[float]]):
    """Matrix -> [squared error, squared weights], as a conversion's journal keeps them."""

    def add(self, matrix: str, error: float, squares: float) -> None:
        """Add further rows of a matrix, in their order."""
        found = self.setdefault(matrix, [0.0, 0.0])
        found[0] += error
        found[1] += squares

    def error(self, matrix: str) -> float:
        """The relative error of a matrix."""
        return relative_error([self[matrix]])

    def worst(self) -> str | None:
        """The matrix with the largest relative error, the first of several; None where there is none."""
        return max(self, key=self.error, default=None)

    def total(self) -> float:
        """The relative error of all of them together."""
        return relative_error(self.values())


def expert_matrix(layer: int, expert: int, part: str) -> str:
    """How an expert's matrix is called in a report."""
    return f"layers.{layer}.experts.{expert}.{part}"


def relative_error(sums: Iterable[list[float]]) -> float:
    """Of matrices taken together, rounded to four digits; 0 where none was changed."""
    error = squares = 0.0
    for found in sums:
        error += found[0]
        squares += found[1]
    return float(f"{math.sqrt(error / squares):.{_DIGITS}g}") if error else 0.0


def decibels(error: float) -> float:
    """The signal-to-noise ratio of a relative error in dB; infinite where nothing was changed."""
    return -20 * math.log10(error) if error else math.inf


def report(plan: Plan, recipe: Recipe, source: layout.Source, sums: Sums) -> dict[str, Any]:
    """The report's JSON object, which depends on no order of `sums`; see `quant/FORMAT.md` for its keys."""
    from quant.manifest import tensors

    sums = Sums(sorted(sums.items()))  # whatever order they came in, they add up to the same bits
    dense, experts = tensors(plan, recipe, source)
    by_role: dict[str, list[list[float]]] = {}
    for name, entry in dense.items():
        if name in sums:
            by_role.setdefault(entry["role"], []).append(sums[name])
    for layer in plan.experts:
        by_role.setdefault("expert", []).extend(sums[name] for name in _matrices(layer.layer, experts))
    sizes = role_sizes(dense, experts)
    worst = sorted(sums, key=lambda name: -sums.error(name))[:WORST]
    return {
        "recipe": {"name": recipe.name, "formats": recipe.formats},
        **({"calibration": recipe.calibration} if recipe.calibration else {}),
        "total": _size(total(sizes), sums.total()),
        "roles": {
            size.role: {
                **_size(size, relative_error(by_role.get(size.role, []))),
                "formats": list(size.formats),
            }
            for size in sizes
        },
        "worst": [{"matrix": name, "relative_error": sums.error(name)} for name in worst if sums.error(name)],
        "dense": {name: _dense(entry, sums.error(name)) for name, entry in dense.items() if name in sums},
        "experts": {
            str(layer.layer): {
                part: _part(layer.layer, part, entry, layer.n_experts, sums)
                for part, entry in experts[str(layer.layer)]["parts"].items()
            }
            for layer in plan.experts
        },
    }


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report in a model's folder, None where there is none; raises CheckpointError where it is no report."""
    path = folder / REPORT
    if not path.exists():
        return None
    found = read_json(path)
    roles, worst, total = found.get("roles"), found.get("worst"), found.get("total")
    sound = isinstance(roles, dict) and all(map(_has_error, [*roles.values(), total])) and isinstance(worst, list)
    if not sound or not all(_has_error(one) and isinstance(one.get("matrix"), str) for one in worst or ()):
        raise CheckpointError(f"{REPORT}: it lacks 'total', 'roles' or 'worst' with their errors")
    return found


def _has_error(entry: Any) -> bool:
    error = entry.get("relative_error") if isinstance(entry, dict) else None
    return isinstance(error, float) and 0 <= error < math.inf


def _matrices(layer: int, experts: dict[str, Any]) -> Iterable[str]:
    entry = experts[str(layer)]
    return (expert_matrix(layer, expert, part) for expert in range(entry["n_experts"]) for part in entry["parts"])


def _size(size: RoleSize, error: float) -> dict[str, Any]:
    return {
        "weights": size.weights,
        "bytes": size.bytes,
        "bits_per_weight": round(size.bits_per_weight, 4),
        "relative_error": error,
    }


def _dense(entry: dict[str, Any], error: float) -> dict[str, Any]:
    rows, cols = entry["shape"]
    bits = round(8 * dense_bytes(entry) / (rows * cols), 4)
    return {"role": entry["role"], "format": entry["format"], "bits_per_weight": bits, "relative_error": error}


def _part(layer: int, part: str, entry: dict[str, Any], n_experts: int, sums: Sums) -> dict[str, Any]:
    errors = [sums.error(expert_matrix(layer, expert, part)) for expert in range(n_experts)]
    bits = FORMATS[entry["format"]].bits_per_weight(entry["rows"], entry["cols"])
    return {
        "format": entry["format"],
        "bits_per_weight": round(bits, 4),
        "mean": float(f"{sum(errors) / n_experts:.{_DIGITS}g}"),
        "worst": max(errors),
        "worst_expert": errors.index(max(errors)),
    }
