"""Which format each role is stored in: a small TOML file, some of which are built in.

The parts of an expert may differ: "expert.down" goes before "expert". So may layers: "layers.3.expert", or
"layers.0-5.expert" for several, goes before both.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import UsageError
from quant.formats import ENCODABLE, FORMATS, Format
from quant.plan import ROLES, Plan

if TYPE_CHECKING:
    import numpy as np

    from quant.statistics import Statistics

_BUILT_IN = Path(__file__).parent / "recipes"
# A router that is rounded picks other experts, so these are computed in float32 whatever the source stored.
_FLOAT32_ROLES = ("router", "gate")
EXPERT_PARTS = ("expert.gate", "expert.up", "expert.down")
# So few bits that, without the statistics of a calibration, what is left depends on luck.
NEED_STATISTICS = ("q3",)
_KEY = re.compile(r"(layers\.(?P<first>\d{1,3})(-(?P<last>\d{1,3}))?\.)?(?P<role>[a-z]+(\.[a-z]+)?)")


@dataclass(frozen=True)
class Recipe:
    """Formats by role, or by "layers.N." and a role; what is not named is stored exactly.

    With `statistics` of a calibration, codes are chosen by what an error does to the answers.
    """

    name: str
    description: str
    formats: dict[str, str]
    statistics: Statistics | None = None

    def calibrated(self, statistics: Statistics | None) -> Recipe:
        """The same formats with these statistics."""
        return replace(self, statistics=statistics)

    @property
    def calibration(self) -> dict[str, Any]:
        """What the statistics were collected on, and their checksum; empty without any."""
        return {} if self.statistics is None else self.statistics.calibration

    def importance(self, name: str) -> np.ndarray | None:
        """How important each input of the matrix `name` is, [C] f32; None where nothing is known."""
        return None if self.statistics is None else self.statistics.importance(name)

    def format(self, role: str, source_dtype: str, layer: int | None = None) -> Format:
        """The format for a matrix of `role`, or of a part of an expert, in a layer or outside of them.

        `source_dtype` is that of its source: one of safetensors, or INT4.
        """
        roles = (role, role.split(".")[0])
        keys = (*(f"layers.{layer}.{r}" for r in roles), *roles)
        name = next((self.formats[key] for key in keys if key in self.formats), "exact")
        if name != "exact":
            # Int4 is copied whatever the format: more bits would add nothing, and other scales only an error.
            copies = source_dtype in FORMATS["k4"].lossless_from
            return FORMATS["k4" if copies else name]
        lossless = ENCODABLE["bf16"].lossless_from
        return ENCODABLE["bf16" if source_dtype in lossless and role not in _FLOAT32_ROLES else "f32"]

    def check_layers(self, plan: Plan) -> None:
        """Raise UsageError where a layer is named that the model has not."""
        layers = plan.layers
        for key in self.formats:
            found = _KEY.fullmatch(key)
            if found and found["first"] and int(found["first"]) not in layers:
                last = max(layers, default=None)
                raise UsageError(f"recipe {self.name!r}: {key}: the model has no such layer, its last is {last}")

    @property
    def needs_statistics(self) -> bool:
        """Whether one of the formats needs statistics of the activations."""
        return not set(NEED_STATISTICS).isdisjoint(self.formats.values())

    def check_statistics(self, plan: Plan | None = None) -> None:
        """Raise UsageError where statistics are needed and there are none, or where they are of another plan."""
        if self.statistics is not None and plan is not None:
            self.statistics.check(plan)
        for role, name in self.formats.items():
            if name in NEED_STATISTICS and (self.statistics is None or role == "embedding"):  # whose rows are copied
                raise UsageError(
                    f"recipe {self.name!r}: {role} = {name!r} needs statistics from a calibration, and there are none",
                    hint="moe calibrate makes them, for --stats; int4-small has the smallest formats that do without",
                )


def built_in() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in _BUILT_IN.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """A built-in recipe by name, or one from a TOML file; raises UsageError naming what is wrong with it."""
    path = _BUILT_IN / f"{name}.toml" if name in built_in() else Path(name)
    if not path.is_file():
        raise UsageError(
            f"no recipe {name!r}", hint=f"built in: {', '.join(built_in())}; or the path of a TOML file like them"
        )
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name}: {error}") from error
    formats, description = text.pop("formats", None), text.pop("description", "")
    if text:
        raise UsageError(f"{path.name}: unknown key {next(iter(text))!r}; a recipe has 'description' and [formats]")
    if not isinstance(formats, dict) or not isinstance(description, str):
        raise UsageError(f"{path.name}: a recipe needs a table [formats] of role = format")
    for key, format_name in formats.items():
        role = _role(key)
        if role is None:
            roles = ", ".join((*ROLES, *EXPERT_PARTS))
            raise UsageError(
                f"{path.name}: unknown role {key!r}; roles are {roles}",
                hint='of one layer "layers.3.expert", of several "layers.0-5.expert"',
            )
        if format_name not in (*ENCODABLE, "exact"):
            why = "it only holds weights copied from a source in it" if format_name in [*FORMATS] else "no such format"
            raise UsageError(
                f"{path.name}: {key} = {format_name!r}: {why}",
                hint=f"formats are {', '.join(ENCODABLE)}, and exact, which keeps what the source has",
            )
    return Recipe(path.stem, description, _by_layer(path.name, formats))


def _role(key: str) -> str | None:
    """The role, or part of an expert, that a key names, of whatever layers; None where it names none."""
    found = _KEY.fullmatch(key)
    return found["role"] if found and found["role"] in (*ROLES, *EXPERT_PARTS) else None


def _by_layer(file: str, formats: dict[str, str]) -> dict[str, str]:
    """The same with an entry for each layer in place of a range of them; raises UsageError for two of one layer."""
    made: dict[str, str] = {}
    for key, format_name in formats.items():
        found = _KEY.fullmatch(key)
        assert found
        keys = [key]
        if found["first"]:
            first, last = int(found["first"]), int(found["last"] or found["first"])
            if last < first:
                raise UsageError(f"{file}: {key!r}: layer {last} comes before layer {first}")
            keys = [f"layers.{layer}.{found['role']}" for layer in range(first, last + 1)]
        for one in keys:
            if one in made:
                raise UsageError(f"{file}: {one} has two formats, {made[one]!r} and {format_name!r}")
            made[one] = format_name
    return made
