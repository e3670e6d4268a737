"""The report of a conversion: its errors against weights read back, and what a source that holds no numbers ends in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_runtime import plan_for
from quant.building import partial_folder
from quant.checkpoint import Checkpoint
from quant.checksums import Checksums
from quant.container import open_model
from quant.convert import convert
from quant.errors import CheckpointError
from quant.formats import ENCODABLE
from quant.not_finite import find, joined
from quant.recipe import load_recipe
from quant.report import REPORT, Sums, decibels, expert_matrix, report
from quant.source_rows import dense_rows, part_rows
from tests.checkpoints import copy_of, digests, poisoned
from tests.conftest import DEMO, FIXTURES, Quantized, quantize

PER_EXPERT = FIXTURES / "qwen3_5_per_expert"
FUSED = FIXTURES / "qwen3_5_fused"
FP8 = FIXTURES / "deepseek_v3_fp8"
INT4 = FIXTURES / "kimi_k25_int4"


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / REPORT).read_text())
    return found


@pytest.mark.parametrize("name", ENCODABLE)
@pytest.mark.parametrize("shape", [(1, 1), (16, 64), (37, 131), (64, 1100)])
def test_sums_are_those_of_what_is_stored(name: str, shape: tuple[int, int]) -> None:
    rng, form = np.random.default_rng(0), ENCODABLE[name]
    weights = (rng.standard_normal(shape) * rng.choice([0, 1e-6, 1, 30], (shape[0], 1))).astype(np.float32)
    packed, sums = form.pack_measured(weights)
    assert np.array_equal(packed, form.pack(weights))
    stored, source = form.unpack(packed, *shape).astype(np.float64), weights.astype(np.float64)
    for tile in range(len(packed)):
        rows = slice(16 * tile, 16 * tile + 16)
        error, squares = ((stored[rows] - source[rows]) ** 2).sum(), (source[rows] ** 2).sum()
        np.testing.assert_allclose(sums[tile], [error, squares], rtol=1e-4, atol=1e-12 * squares)


@pytest.mark.parametrize("recipe", ["int4", "int8", "bf16"])
@pytest.mark.parametrize("source", [DEMO, FUSED, FP8, INT4], ids=lambda path: path.name)
def test_errors_are_those_of_weights_read_back(quantized: Quantized, source: Path, recipe: str) -> None:
    folder = quantized(source, recipe)
    found, model = report_of(folder), open_model(folder)
    with Checkpoint.open(source) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        for dense in plan.dense:
            if dense.kind == "matrix":
                matrix = model.matrix(dense.name)
                expected = relative(matrix.unpack(), dense_rows(checkpoint, dense).decoded(0, dense.shape[0]))
                entry = found["dense"][dense.name]
                assert entry["relative_error"] == pytest.approx(expected, rel=2e-3)
                assert (entry["role"], entry["format"]) == (dense.role, matrix.format.name)
        for layer in plan.experts[:2]:
            records = model.expert_layer(layer.layer)
            for part in layer.parts:
                place, errors = records.parts[part.name], []
                for expert in range(layer.n_experts):
                    tiles = records.records[expert, place.offset : place.offset + place.bytes]
                    stored = place.format.unpack(
                        tiles.reshape(-1, place.format.tile_bytes(place.cols)), place.rows, place.cols
                    )
                    rows = part_rows(checkpoint, part, expert).decoded(0, part.shape[0])
                    errors.append(relative(stored, rows))
                entry = found["experts"][str(layer.layer)][part.name]
                assert entry["format"] == place.format.name
                assert entry["mean"] == pytest.approx(np.mean(errors), rel=2e-3)
                assert entry["worst"] == pytest.approx(max(errors), rel=2e-3)
                assert errors[entry["worst_expert"]] == pytest.approx(max(errors), rel=2e-3)


def relative(stored: np.ndarray, source: np.ndarray) -> float:
    error = ((stored.astype(np.float64) - source) ** 2).sum()
    return math.sqrt(error / (source.astype(np.float64) ** 2).sum()) if error else 0.0


def test_totals_and_the_worst(quantized: Quantized) -> None:
    found = report_of(quantized(DEMO, "int4"))
    roles = found["roles"]
    assert found["total"]["weights"] == sum(role["weights"] for role in roles.values())
    assert found["total"]["bytes"] == sum(role["bytes"] for role in roles.values())
    assert roles["expert"]["relative_error"] > 10 * roles["attention"]["relative_error"] > 0
    assert roles["router"]["relative_error"] == 0
    worst = found["worst"]
    assert len(worst) == 10
    assert worst == sorted(worst, key=lambda one: -one["relative_error"])
    layers = found["experts"].values()
    assert worst[0]["relative_error"] == max(part["worst"] for layer in layers for part in layer.values())
    assert 24 < decibels(roles["expert"]["relative_error"]) < 26


def test_the_order_in_which_matrices_came_makes_no_difference() -> None:
    with Checkpoint.open(FUSED) as source:
        plan, recipe = plan_for(source.config, source.names), load_recipe("int4")
        names = [dense.name for dense in plan.dense if dense.kind == "matrix"]
        names += [
            expert_matrix(layer.layer, expert, part.name)
            for layer in plan.experts
            for expert in range(layer.n_experts)
            for part in layer.parts
        ]
        rng = np.random.default_rng(0)
        sums = {name: [float(rng.integers(1, 4)), 10.0 + rng.random()] for name in names}
        sums |= dict.fromkeys(names[-5:], [9.0, 10.0])
        backwards = Sums(reversed(sums.items()))
        assert report(plan, recipe, source, Sums(sums)) == report(plan, recipe, source, backwards)


def test_each_finished_file_is_told_and_kept(tmp_path: Path, quantized: Quantized) -> None:
    told: dict[str, Sums] = {}
    journalled: list[dict[str, Any]] = []

    def on_file(file: str, sums: Sums) -> None:
        told[file] = Sums(sums)
        last = (partial_folder(tmp_path / FUSED.name) / "journal.jsonl").read_text().splitlines()[-1]
        journalled.append(json.loads(last))

    with Checkpoint.open(FUSED) as source:
        plan = plan_for(source.config, source.names)
        out = convert(source, plan, load_recipe("int4"), tmp_path / FUSED.name, on_file=on_file)
    assert digests(out) == digests(quantized(FUSED, "int4"))
    assert [entry["sums"] for entry in journalled] == list(told.values())
    assert len(told) == len(list(out.glob("*.safetensors")))
    assert all(told.values())


# --- a source that holds no numbers ---


NAN, INFINITY = b"\xc0\x7f", b"\x80\xff"  # bf16


def test_a_matrix_with_nan_is_named_with_place_and_count(tmp_path: Path) -> None:
    source = copy_of(PER_EXPERT, tmp_path / "source")
    poisoned(source, {"lm_head.weight": [7, 40, 41]}, NAN)
    poisoned(source, {"lm_head.weight": [90]}, INFINITY)
    with pytest.raises(
        CheckpointError, match=r"'lm_head.weight': 4 weights .* \(3 NaN, 1 infinite\), .*row 0, column 7"
    ):
        quantize(source, "int4", tmp_path / "m")


def test_what_was_done_before_nan_is_kept(tmp_path: Path, quantized: Quantized) -> None:
    """The last layer's last expert is bad: all files before it stay, and a mended source ends in the same bytes."""
    source = copy_of(FUSED, tmp_path / FUSED.name)
    with Checkpoint.open(source) as checkpoint:
        layer = plan_for(checkpoint.config, checkpoint.names).experts[-1]
        name = layer.parts[0].source
        n_experts, rows, cols = checkpoint.encoding(name).shape
    poisoned(source, {name: [(n_experts - 1) * rows * cols + 2 * cols + 3]}, INFINITY)
    out = tmp_path / "out" / FUSED.name
    with pytest.raises(CheckpointError) as caught:
        quantize(source, "int4", out)
    assert f"row 2, column 3 of expert {n_experts - 1}" in str(caught.value)
    assert "a weight is not finite (1 infinite)" in str(caught.value)
    assert caught.value.exit_code == 6
    assert "kept" in str(caught.value.hint)
    kept = {path.name: path.stat().st_mtime_ns for path in partial_folder(out).glob("*.safetensors")}
    assert len(kept) == layer.layer + 1
    for path in FUSED.glob("*.safetensors"):
        (source / path.name).write_bytes(path.read_bytes())
    quantize(source, "int4", out)
    assert digests(out) == digests(quantized(FUSED, "int4"))
    assert all((out / file).stat().st_mtime_ns == time for file, time in kept.items())


@pytest.mark.parametrize(
    ("checkpoint", "suffix", "bits"),
    [(FP8, "_scale_inv", np.float32(np.nan).tobytes()), (INT4, "_scale", NAN)],
    ids=["fp8", "int4"],
)
def test_scales_that_are_no_numbers(tmp_path: Path, checkpoint: Path, suffix: str, bits: bytes) -> None:
    source = copy_of(checkpoint, tmp_path / "source")
    with Checkpoint.open(source) as opened:
        name = next(name for name in opened.names if name.endswith("down_proj.weight" + suffix) and "experts" in name)
    poisoned(source, {name: [0, 1]}, bits)
    with pytest.raises(
        CheckpointError, match=r"2 scales are not finite \(2 NaN\), the first in row 0, column 0"
    ) as caught:
        quantize(source, "int4", tmp_path / "m")
    assert name in str(caught.value)


def test_a_vector_with_nan(tmp_path: Path) -> None:
    source = copy_of(PER_EXPERT, tmp_path / "source")
    poisoned(source, {"model.language_model.norm.weight": [3]}, NAN)
    with pytest.raises(CheckpointError, match=r"norm\.weight': a value is not finite \(1 NaN\), in row 0, column 3"):
        quantize(source, "int4", tmp_path / "m")


def test_counts_add_up_over_pieces() -> None:
    values = np.zeros((5, 4), np.float32)
    values[3, 1], values[4, 0], values[4, 3] = np.nan, np.inf, -np.inf
    whole = find("w", "weight", values, 10, None)
    assert joined(find("w", "weight", values[:4], 10, None), find("w", "weight", values[4:], 14, None)) == whole
    assert str(whole).endswith("3 weights are not finite (1 NaN, 2 infinite), the first in row 13, column 1")
    assert find("w", "weight", values[:3], 0, None) is None


@pytest.mark.parametrize("piece", [1, 3, 7, 100])
def test_checksums_do_not_depend_on_pieces(piece: int) -> None:
    import zlib

    data = np.random.default_rng(0).integers(0, 256, 57, np.uint8).tobytes()
    sums = Checksums(7, [10, 1, 32])
    for start in range(0, len(data), piece):
        sums.update(data[start : start + piece])
    assert sums.values == [zlib.crc32(data[7:17]), zlib.crc32(data[17:18]), zlib.crc32(data[18:50])]
