"""What a person asked to quantize to: a recipe, or a size that one is made for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quant.budget import Budget
    from quant.plan import Plan
    from quant.recipe import Recipe
    from quant.statistics import Statistics

_MOST_BITS = 32


@dataclass(frozen=True)
class Choice:
    """A recipe, or the budget of one that is solved for the model at hand.

    `asked` is the option by which a person asks for the same again, and what it was given. Whatever is wanted, codes
    are chosen by `statistics` where there are any; a recipe has them already.
    """

    name: str
    asked: tuple[str, str]
    wanted: Recipe | Budget
    statistics: Statistics | None = None

    @property
    def calibration(self) -> dict[str, Any]:
        """What a manifest says of the statistics."""
        return {} if self.statistics is None else self.statistics.calibration

    @property
    def recipe(self) -> Recipe | None:
        """The recipe where it is known before the model is."""
        from quant.recipe import Recipe

        return self.wanted if isinstance(self.wanted, Recipe) else None

    def settle(
        self, plan: Plan, partial: Path, fingerprint: Callable[[Recipe], str], solve: Callable[[Budget], Recipe]
    ) -> Recipe:
        """The recipe to convert by; a stopped conversion in the folder `partial` goes on with its own.

        `fingerprint` identifies what a recipe makes, `solve` makes one with the statistics. Raises UsageError where
        those are of another model than the plan.
        """
        from quant.journal import unfinished
        from quant.recipe import Recipe

        if self.statistics is not None:
            self.statistics.check(plan)
        if isinstance(self.wanted, Recipe):
            return self.wanted
        begun = unfinished(partial)
        noted = Recipe(self.name, "as it was begun", begun.formats, self.statistics)
        if begun.formats and fingerprint(noted) == begun.fingerprint:
            return noted
        return solve(self.wanted)


def choice(option: str, recipe: str | None, bits: float | None, size: str | None, stats: Path | None) -> Choice | None:
    """What `option` or one of --bpw and --size asks for; None where nothing does.

    Raises UsageError for more than one of them, for values that none can be, and for a recipe that needs statistics
    where there are none; CheckpointError where `stats` is no file of them.
    """
    from cli import byte_size
    from quant.budget import Budget
    from quant.errors import UsageError
    from quant.recipe import load_recipe
    from quant.statistics import Statistics

    if sum(given is not None for given in (recipe, bits, size)) > 1:
        raise UsageError(f"give one of {option}, --bpw and --size")
    statistics = None if stats is None else Statistics(stats)
    if bits is not None:
        if not 0 < bits <= _MOST_BITS:
            raise UsageError(f"--bpw {bits:g}: expected a number of bits up to {_MOST_BITS}, such as 4.25")
        return Choice(f"{bits:g}bpw", ("--bpw", f"{bits:g}"), Budget(f"{bits:g}bpw", bits=bits), statistics)
    if size is not None:
        most, text = byte_size.parse("--size", size), size.replace(" ", "")
        return Choice(text.lower(), ("--size", text), Budget(text.lower(), bytes=most), statistics)
    if recipe is None:
        if stats is not None:
            raise UsageError("--stats is for quantizing", hint=f"add {option} int4")
        return None
    loaded = load_recipe(recipe).calibrated(statistics)
    loaded.check_statistics()
    given = str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe
    return Choice(loaded.name, (option, given), loaded, statistics)
