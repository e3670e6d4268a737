"""Errors that are known or measured before a conversion, and what the solver makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpu_runtime import plan_for
from quant.budget import Budget
from quant.checkpoint import Checkpoint
from quant.container import QuantizedModel, open_model
from quant.convert import convert
from quant.formats import ENCODABLE, ROWS
from quant.matrix_errors import GAUSSIAN, Errors, Kind, MeasuredErrors
from quant.recipe import Recipe
from quant.report import read_report
from quant.solved_recipe import solve
from quant.statistics import Statistics
from quant.statistics_layout import FACTS, tensors
from quant.statistics_writer import StatisticsWriter
from tests.conftest import FIXTURES, Quantized, quantize
from tests.reference_calibration import relative_error

TINY = FIXTURES / "minimax_m2_bf16"
FUSED = FIXTURES / "qwen3_5_fused"
UNEVEN = 2  # the layer whose experts read much of few inputs


def test_matrices_of_few_rows_are_measured_as_the_report_has_them(tmp_path: Path) -> None:
    folder = quantize(TINY, "int4", tmp_path / "m")
    report = read_report(folder)
    assert report is not None
    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        errors = MeasuredErrors(source, plan)
        small = [
            d for d in plan.dense if d.name in report["dense"] and d.shape[0] <= 4 * ROWS and d.role == "attention"
        ]
        assert small
        for dense in small:
            entry = report["dense"][dense.name]
            found = errors(Kind(dense.name), ENCODABLE[entry["format"]])
            assert found == pytest.approx(entry["relative_error"] ** 2, rel=1e-3)
        assert errors.measured == len(small) < errors.matrices
        for layer in plan.experts:
            for part, entry in report["experts"][str(layer.layer)].items():
                found = errors(Kind(f"layers.{layer.layer}.experts", part), ENCODABLE[entry["format"]])
                assert found == pytest.approx(entry["mean"] ** 2, rel=0.2)


def test_gaussian_rows_have_the_errors_that_are_taken_for_known() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 2048), np.float32)
    for name, expected in GAUSSIAN.items():
        error, squares = ENCODABLE[name].pack_measured(rows)[1].sum(0)
        assert error / squares == pytest.approx(expected, rel=0.05)


@pytest.fixture
def statistics(tmp_path: Path) -> Statistics:
    """Of FUSED: inputs are even but for one layer's experts, where they differ by a factor of thousands."""
    with Checkpoint.open(FUSED) as source:
        plan = plan_for(source.config, source.names)
    random = np.random.default_rng(0)
    facts = dict.fromkeys(FACTS, "made up") | {"tokens": "1000"}
    with StatisticsWriter(tmp_path / "statistics", plan, facts) as out:
        for layer in plan.experts:
            spread = 3.0 if layer.layer == UNEVEN else 0.0
            shapes = {part.name: (layer.n_experts, part.shape[1]) for part in layer.parts if part.name != "up"}
            sums = {name: 1000 * np.exp(spread * random.standard_normal(shape)) for name, shape in shapes.items()}
            out.add_experts(layer.layer, np.full(layer.n_experts, 1000), sums)
        wide = {name: shape for name, (_, shape) in tensors(plan).items() if ".experts" not in name}
        out.add_dense({name: np.exp(random.standard_normal(shape)) for name, shape in wide.items()})
    return Statistics(tmp_path / "statistics")


def expert_weights(model: QuantizedModel, layer: int, expert: int, part: str) -> np.ndarray:
    records = model.expert_layer(layer)
    place = records.parts[part]
    tiles = records.records[expert, place.offset : place.offset + place.bytes]
    return place.format.unpack(tiles.reshape(-1, place.format.tile_bytes(place.cols)), place.rows, place.cols)


def test_errors_count_by_importance(statistics: Statistics, tmp_path: Path, quantized: Quantized) -> None:
    """Against a slow twin, which reads what was converted."""
    recipe = Recipe("mine", "", {"expert": "q3", "attention": "q4", "shared": "q8"}, statistics)
    exact = open_model(quantized(FUSED, "bf16"))
    with Checkpoint.open(FUSED) as source:
        plan = plan_for(source.config, source.names)
        made = open_model(convert(source, plan, recipe, tmp_path / "m"))
        errors, plain = MeasuredErrors(source, plan, statistics), MeasuredErrors(source, plan)
        for name in ("layers.0.delta.out", "layers.0.moe.shared.down"):
            stored, weights = made.matrix(name), exact.matrix(name).unpack()
            assert len(weights) <= 4 * ROWS, "every row is measured"
            shares = np.broadcast_to(importance(statistics, name), weights.shape)
            found = errors(Kind(name), stored.format)
            assert found == pytest.approx(relative_error(stored.unpack(), weights, shares), rel=1e-6)
        for layer in (UNEVEN, UNEVEN + 1):
            for part in ("gate", "up", "down"):
                found = errors(Kind(f"layers.{layer}.experts", part), ENCODABLE["q3"])
                assert found == pytest.approx(relative_error(*sampled(made, exact, statistics, layer, part)), rel=1e-6)
                without = plain(Kind(f"layers.{layer}.experts", part), ENCODABLE["q3"])
                assert found < 0.7 * without if layer == UNEVEN else found == pytest.approx(without, rel=0.02)


def sampled(
    made: QuantizedModel, exact: QuantizedModel, statistics: Statistics, layer: int, part: str
) -> tuple[np.ndarray, ...]:
    """(stored, weights, shares) of a tile of each expert, from the first rows to the last: [E * 16, C]."""
    found = []
    experts = len(exact.expert_layer(layer).records)
    for expert in range(experts):
        weights = expert_weights(exact, layer, expert, part)
        first = ROWS * int((expert + 0.5) / experts * (len(weights) // ROWS))
        shares = importance(statistics, f"layers.{layer}.experts.{expert}.{part}")
        both = [weights, expert_weights(made, layer, expert, part)]
        found.append([some[first : first + ROWS] for some in (both[1], both[0], np.tile(shares, (len(weights), 1)))])
    return tuple(np.concatenate(some) for some in zip(*found, strict=True))


def importance(statistics: Statistics, name: str) -> np.ndarray:
    found = statistics.importance(name)
    assert found is not None
    return found


def test_three_bits_go_where_they_cost_least(statistics: Statistics) -> None:
    with Checkpoint.open(FUSED) as source:
        plan = plan_for(source.config, source.names)

        def small(errors: Errors) -> set[int]:
            recipe = solve(plan, source, errors, Budget("mine", bits=10), statistics)
            return {e.layer for e in plan.experts if recipe.format("expert.gate", "BF16", e.layer).name == "q3"}

        by_importance = small(MeasuredErrors(source, plan, statistics))
        assert by_importance == {UNEVEN} != small(MeasuredErrors(source, plan))
