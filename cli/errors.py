"""How far quantized weights are from their source, as a person reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli import output

if TYPE_CHECKING:
    from quant.report import Sums


def show_file(file: str, sums: Sums) -> None:
    """One line about the matrices of a file that is finished."""
    worst = sums.worst()
    if worst is None or not sums.error(worst):
        output.say(f"{file}: every weight as in the source")
    else:
        output.say(f"{file}: error {written(sums.total())}, worst {worst} {written(sums.error(worst))}")


def show_report(report: dict[str, Any], *, to_stderr: bool = False) -> None:
    """Sizes and errors by role, and the matrices that are furthest from their source."""
    sizes = {**report["roles"], "total": report["total"]}
    rows = [
        [
            role,
            output.weights(size["weights"]),
            "+".join(size.get("formats", ())),
            f"{size['bits_per_weight']:.2f}",
            output.size(size["bytes"]),
            written(size["relative_error"]),
        ]
        for role, size in sizes.items()
    ]
    output.table(["ROLE", "WEIGHTS", "FORMAT", "BITS", "SIZE", "ERROR"], rows, to_stderr=to_stderr)
    if report["worst"]:
        named = ", ".join(f"{one['matrix']} {written(one['relative_error'])}" for one in report["worst"][:3])
        output.say(f"furthest from their source: {named}")


def written(error: float) -> str:
    """A relative error: 5.92 % (24.6 dB)."""
    from quant.report import decibels

    return f"{100 * error:.2f} % ({decibels(error):.1f} dB)" if error else "none"
