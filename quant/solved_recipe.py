"""A recipe made for one model and a given size: formats by role and layer, with the least error that the bytes allow.

The error of a choice is the sum over everything that a token is multiplied with - each dense matrix of a layer, and of
its experts the gate, up and down matrices of whichever are active - of the squared relative error times a weight of
its role. Errors of independent matrices add up to what the logits differ by, in the mean; how much a role counts was
measured (`python -m tests.bench.role_weights`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from quant import layout
from quant.allocation import Option, allocate, hull, least_bytes
from quant.budget import Budget
from quant.errors import UsageError
from quant.matrix_errors import Errors, Kind, expert_kind, is_rounded, known
from quant.plan import Dense, ExpertLayer, Plan
from quant.recipe import Recipe
from quant.statistics import Statistics

# How much more an error counts than one in an expert's gate matrix: the geometric mean of what two models say, of which
# only one has a shared expert, and neither dense layers (as an expert's three matrices together).
WEIGHTS: Mapping[str, float] = {
    "expert.up": 1.2,
    "expert.down": 2.5,
    "attention": 1.8,
    "shared": 0.5,
    "mlp": 1.6,
    "embedding": 25.0,
    "head": 28.0,
}
CANDIDATES = ("q4c", "q4", "q5", "q6", "q8", "exact")
CALIBRATED = ("q3", *CANDIDATES)  # what needs statistics too; of embeddings, whose rows are copied, there are none


@dataclass
class _Thing:
    """What gets formats together: the matrices of a role in a layer, or the experts of a layer.

    `choices` are entries of a recipe, each with its size and error in `options`.
    """

    choices: list[dict[str, str]] = field(default_factory=list)
    options: list[Option] = field(default_factory=list)


def solve(
    plan: Plan, source: layout.Source, errors: Errors, budget: Budget, statistics: Statistics | None = None
) -> Recipe:
    """The recipe of least error within a budget; raises UsageError where even the smallest formats exceed it.

    That is found out before an error is asked for. With statistics it has them, and perhaps formats that need them.
    """
    candidates = CANDIDATES if statistics is None else CALIBRATED
    fixed = sum(layout.stored_bytes(d, Recipe("", "", {}), source) for d in plan.dense if not is_rounded(d))
    things = list(_things(plan, source, known, candidates))
    largest = [max(range(len(thing.options)), key=lambda n: thing.options[n].bytes) for thing in things]
    fixed += budget.counted_headers(plan, _recipe("", "", things, largest), source)
    most = budget.most_bytes(plan) - fixed
    least = least_bytes([thing.options for thing in things])
    if most < least:
        smallest = budget.written(fixed + least, plan)
        exactest = [hull(thing.options)[-1] for thing in things]
        fullest = budget.written(fixed + _bytes(things, exactest), plan)
        raise UsageError(
            f"{budget} can't be had: this model takes {smallest} at least, and uses {fullest} at most",
            hint=None
            if statistics is not None
            else "formats of 3 bits take less, but need statistics from a calibration: moe calibrate, --stats",
        )
    things = list(_things(plan, source, errors, candidates))
    chosen = allocate([thing.options for thing in things], most)
    used = budget.written(fixed + _bytes(things, chosen), plan)
    recipe = _recipe(budget.name, f"{used}, formats solved by role and layer", things, chosen)
    return recipe.calibrated(statistics)


def _bytes(things: list[_Thing], chosen: list[int]) -> int:
    return sum(thing.options[n].bytes for thing, n in zip(things, chosen, strict=True))


def _things(plan: Plan, source: layout.Source, errors: Errors, candidates: Sequence[str]) -> Iterator[_Thing]:
    """Everything that has a choice, what is outside of the layers first."""
    roles: dict[tuple[int, str], list[Dense]] = {}
    for dense in filter(is_rounded, plan.dense):
        roles.setdefault((-1 if dense.layer is None else dense.layer, dense.role), []).append(dense)
    for (layer, role), matrices in sorted(roles.items()):
        some = CANDIDATES if role == "embedding" else candidates
        yield _dense_thing(f"layers.{layer}.{role}" if layer >= 0 else role, role, matrices, source, errors, some)
    for experts in plan.experts:
        yield _expert_thing(experts, source, errors, candidates)


def _dense_thing(
    key: str, role: str, matrices: list[Dense], source: layout.Source, errors: Errors, candidates: Sequence[str]
) -> _Thing:
    thing = _Thing()
    for name in candidates:
        recipe = Recipe("", "", {key: name})
        size, error = 0, 0.0
        for dense in matrices:
            form = layout.stored_shape(dense, recipe, source)[2]
            assert form is not None
            size += layout.stored_bytes(dense, recipe, source)
            error += errors(Kind(dense.name), form)
        thing.choices.append(recipe.formats)
        thing.options.append(Option(size, WEIGHTS.get(role, 1.0) * error))
    return thing


def _expert_thing(layer: ExpertLayer, source: layout.Source, errors: Errors, candidates: Sequence[str]) -> _Thing:
    """Formats of the parts are chosen together: a record is padded to whole pages."""
    thing = _Thing()
    for names in product(candidates, repeat=len(layer.parts)):
        formats = {f"layers.{layer.layer}.expert.{p.name}": n for p, n in zip(layer.parts, names, strict=True)}
        parts, record_bytes = layout.record_parts(layer, Recipe("", "", formats), source)
        error = sum(
            WEIGHTS.get(f"expert.{part.name}", 1.0) * errors(expert_kind(layer, part), parts[part.name].format)
            for part in layer.parts
        )
        thing.choices.append(formats)
        thing.options.append(Option(layer.n_experts * record_bytes, error))
    return thing


def _recipe(name: str, description: str, things: list[_Thing], chosen: list[int]) -> Recipe:
    """What was chosen, with an entry for a role where most layers agree, and one for each layer that does not."""
    entries = {key: form for thing, n in zip(things, chosen, strict=True) for key, form in thing.choices[n].items()}
    votes: dict[str, Counter[str]] = {}
    for key, form in entries.items():
        votes.setdefault(_role(key), Counter())[form] += 1
    common = {role: counted.most_common(1)[0][0] for role, counted in votes.items()}
    own = {key: form for key, form in entries.items() if form != common[_role(key)]}
    return Recipe(name, description, common | own)


def _role(key: str) -> str:
    """Without the layer."""
    return key.split(".", 2)[2] if key.startswith("layers.") else key
