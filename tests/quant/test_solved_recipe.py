from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from cpu_runtime import plan_for
from quant import layout
from quant.budget import Budget, weights
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.errors import UsageError
from quant.formats import ENCODABLE, ROWS, Format
from quant.matrix_errors import GAUSSIAN, Kind, MeasuredErrors, known
from quant.plan import Plan
from quant.preview import preview
from quant.recipe import Recipe
from quant.report import read_report
from quant.solved_recipe import CANDIDATES, WEIGHTS, solve
from tests.conftest import FIXTURES, quantize

TINY = FIXTURES / "minimax_m2_bf16"
KIMI = FIXTURES / "kimi_k25_int4"


def tensor_bytes(plan: Plan, recipe: Recipe, source: Checkpoint) -> int:
    dense = sum(layout.stored_bytes(d, recipe, source) for d in plan.dense)
    return dense + sum(e.n_experts * layout.record_parts(e, recipe, source)[1] for e in plan.experts)


def total_error(plan: Plan, recipe: Recipe, source: Checkpoint) -> float:
    """The objective, put together anew."""
    found = 0.0
    for dense in plan.dense:
        form = layout.stored_shape(dense, recipe, source)[2]
        found += WEIGHTS.get(dense.role, 1.0) * known(Kind(dense.name), form) if form else 0.0
    for layer in plan.experts:
        parts = layout.record_parts(layer, recipe, source)[0]
        found += sum(
            WEIGHTS.get(f"expert.{name}", 1.0) * known(Kind(name), part.format) for name, part in parts.items()
        )
    return found


@pytest.mark.parametrize("bits", [9.5, 10.0, 12.0, 15.0, 32.0])
def test_a_recipe_for_so_many_bits_is_never_above_them(bits: float) -> None:
    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        recipe = solve(plan, source, known, Budget("mine", bits=bits))
        sizes = preview(source, plan, recipe)
        assert weights(plan) == sizes.weights
        assert 8 * sizes.output_bytes <= bits * sizes.weights
        assert sizes.output_bytes == tensor_bytes(plan, recipe, source)


def test_more_bits_have_less_error_and_enough_have_none() -> None:
    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        errors = [
            total_error(plan, solve(plan, source, known, Budget("mine", bits=bits)), source)
            for bits in (9.5, 10.0, 11.0, 12.0, 32.0)
        ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[1] > errors[-1] == 0


def test_no_recipe_of_one_format_a_role_is_better_at_its_size() -> None:
    """Every such recipe is one of the choices."""
    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        for experts in CANDIDATES[:-1]:
            for rest in CANDIDATES[:-1]:
                by_role = Recipe("", "", {"expert": experts} | dict.fromkeys(("attention", "embedding", "head"), rest))
                most = tensor_bytes(plan, by_role, source)
                solved = solve(plan, source, known, Budget("mine", bits=(8 * most + 1) / weights(plan)))
                assert tensor_bytes(plan, solved, source) <= most
                assert total_error(plan, solved, source) <= total_error(plan, by_role, source) * (1 + 1e-9)


def test_files_of_weights_take_no_more_than_the_bytes_that_were_given(tmp_path: Path) -> None:
    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        for most in (280_000, 300_000, 333_333, 400_000):
            recipe = solve(plan, source, known, Budget("mine", bytes=most))
            made = convert(source, plan, recipe, tmp_path / str(most))
            size = sum(path.stat().st_size for path in made.glob("*.safetensors"))
            assert 0.9 * most < size <= most


def test_what_can_not_be_had_is_said_with_what_can() -> None:
    def never(kind: Kind, form: Format) -> float:
        raise AssertionError("nothing is measured in vain")

    with Checkpoint.open(TINY) as source:
        plan = plan_for(source.config, source.names)
        with pytest.raises(
            UsageError, match=r"^3 bits a weight can't be had: .* at least, and uses .* at most"
        ) as bits:
            solve(plan, source, never, Budget("mine", bits=3))
        assert "calibration" in str(bits.value.hint)
        with pytest.raises(UsageError, match=r"^0\.10 MB can't be had: this model takes 0\.\d\d MB at least"):
            solve(plan, source, never, Budget("mine", bytes=100_000))


def test_int4_of_the_source_is_kept_whatever_the_size() -> None:
    with Checkpoint.open(KIMI) as source:
        plan = plan_for(source.config, source.names)
        recipe = solve(plan, source, known, Budget("mine", bits=20))
        for layer in plan.experts:
            parts = layout.record_parts(layer, recipe, source)[0]
            assert {part.format.name for part in parts.values()} == {"k4"}
        experts = sum(e.n_experts * prod(part.shape) for e in plan.experts for part in e.parts)
        with pytest.raises(UsageError) as caught:
            solve(plan, source, known, Budget("mine", bits=1))
        most = float(str(caught.value).rpartition("uses ")[2].split()[0])
        assert most < (4.5 * 1.1 * experts + 32 * (weights(plan) - experts)) / weights(plan)


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
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((64, 2048), np.float32)
    for name, expected in GAUSSIAN.items():
        error, squares = ENCODABLE[name].pack_measured(rows)[1].sum(0)
        assert error / squares == pytest.approx(expected, rel=0.05)
