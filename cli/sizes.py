"""Sizes and errors of a model by role, and its worst matrices, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cli import output

if TYPE_CHECKING:
    from quant.report import Sums
    from quant.role_sizes import RoleSize


def show_file(file: str, sums: Sums) -> None:
    """One line about the matrices of a file that is finished."""
    worst = sums.worst()
    if worst is None or not sums.error(worst):
        output.say(f"{file}: every weight as in the source")
    else:
        output.say(f"{file}: error {written(sums.total())}, worst {worst} {written(sums.error(worst))}")


def show_roles(sizes: Iterable[RoleSize], report: dict[str, Any] | None, *, to_stderr: bool = False) -> None:
    """A row for each role and one for all; with a report its errors, and the matrices furthest from their source."""
    from quant.role_sizes import total

    sizes = list(sizes)
    errors = {role: found["relative_error"] for role, found in report["roles"].items()} if report else {}
    if report:
        errors["total"] = report["total"]["relative_error"]
    rows = [
        [
            size.role,
            output.weights(size.weights),
            "+".join(size.formats),
            f"{size.bits_per_weight:.2f}",
            output.size(size.bytes),
            *([written(errors[size.role])] if size.role in errors else [""] if errors else []),
        ]
        for size in [*sizes, total(sizes)]
    ]
    headings = ["ROLE", "WEIGHTS", "FORMAT", "BITS", "SIZE", *(["ERROR"] if errors else [])]
    output.table(headings, rows, to_stderr=to_stderr)
    if report and report["worst"]:
        named = ", ".join(f"{one['matrix']} {written(one['relative_error'])}" for one in report["worst"][:3])
        output.say(f"furthest from their source: {named}")


def as_json(size: RoleSize) -> dict[str, Any]:
    """A role's sizes as JSON has them."""
    return {**asdict(size), "bits": size.bits_per_weight}


def written(error: float) -> str:
    """A relative error: 5.92 % (24.6 dB)."""
    from quant.report import decibels

    return f"{100 * error:.2f} % ({decibels(error):.1f} dB)" if error else "none"
