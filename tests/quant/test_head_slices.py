"""Slices of heads, as latent attention wants them, from every encoding and across every boundary of rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from quant import stored
from quant.checkpoint import Checkpoint
from quant.container import open_model
from quant.convert import convert
from quant.errors import CheckpointError
from quant.plan import Dense, HeadSlice, Plan
from quant.recipe import Recipe
from tests.reference_encodings import INT4_CONFIG, bf16_bits, fp8_weights, int4_weights, write_checkpoint

BLOCK = (24, 40)


def sliced(source: np.ndarray, of: HeadSlice) -> np.ndarray:
    """What should be stored, head by head."""
    heads = source.reshape(of.heads, of.rows, -1)[:, of.start : of.stop]
    return np.concatenate([head.T if of.transposed else head for head in heads])


def plan(up: HeadSlice, cols: int, dv: HeadSlice) -> Plan:
    wide = up.stop - up.start
    return Plan(
        (
            Dense("k_up", "kv_b.weight", "attention", (up.heads * cols, wide), heads=up),
            Dense("v_up", "kv_b.weight", "attention", (dv.heads * (dv.stop - dv.start), cols), heads=dv),
        ),
        (),
    )


def source(folder: Path, encoding: str, rows: int, cols: int) -> tuple[Path, np.ndarray]:
    """(checkpoint with kv_b.weight, its weights)."""
    random = np.random.default_rng(rows)
    if encoding == "bf16":
        bits = bf16_bits(random.standard_normal((rows, cols), np.float32))
        weights = (bits.astype(np.uint32) << 16).view(np.float32)
        return write_checkpoint(folder, {"kv_b.weight": bits}), weights
    if encoding == "fp8":
        codes = random.integers(0, 0x7F, (rows, cols), np.uint8)
        grid = random.uniform(0.5, 2, (-(-rows // BLOCK[0]), -(-cols // BLOCK[1]))).astype(np.float32)
        config = {"quant_method": "fp8", "weight_block_size": list(BLOCK)}
        tensors = {"kv_b.weight": codes, "kv_b.weight_scale_inv": grid}
        return write_checkpoint(folder, tensors, quantization_config=config), fp8_weights(codes, grid, BLOCK)
    words = random.integers(0, 1 << 32, (rows, cols // 8), np.uint32).view(np.int32)
    scales = bf16_bits(random.uniform(0.01, 0.1, (rows, cols // 32)).astype(np.float32))
    tensors = {"kv_b.weight_packed": words, "kv_b.weight_scale": scales}
    return write_checkpoint(folder, tensors, quantization_config=INT4_CONFIG), int4_weights(words, scales)


@pytest.mark.parametrize("chunk", [1, 1 << 26], ids=["16 rows at a time", "all at once"])
@pytest.mark.parametrize("encoding", ["bf16", "fp8", "int4"])
@pytest.mark.parametrize(("dn", "dv"), [(16, 32), (7, 13), (20, 3)])
def test_slices_are_the_stacked_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, dn: int, dv: int, chunk: int
) -> None:
    monkeypatch.setattr(stored, "CHUNK", chunk)
    heads, cols = 5, 96
    up, down = HeadSlice(heads, dn + dv, 0, dn, True), HeadSlice(heads, dn + dv, dn, dn + dv)
    folder, weights = source(tmp_path / "m", encoding, heads * (dn + dv), cols)
    with Checkpoint.open(folder) as checkpoint:
        model = open_model(convert(checkpoint, plan(up, cols, down), Recipe("exact", "", {}), tmp_path / "out"))
    assert np.array_equal(model.matrix("k_up").unpack(), sliced(weights, up))
    assert np.array_equal(model.matrix("v_up").unpack(), sliced(weights, down))
    entry = json.loads((tmp_path / "out" / "manifest.json").read_text())["dense"]["k_up"]
    assert entry["heads"] == {"heads": heads, "rows": dn + dv, "start": 0, "stop": dn, "transposed": True}
    assert entry["shape"] == [heads * cols, dn]


def test_int4_rows_are_copied_and_columns_quantized_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "CHUNK", 1)
    up, down = HeadSlice(3, 20, 0, 7, True), HeadSlice(3, 20, 7, 20)
    folder, weights = source(tmp_path / "m", "int4", 60, 64)
    with Checkpoint.open(folder) as checkpoint:
        recipe = Recipe("q8", "", {"attention": "q8"})
        model = open_model(convert(checkpoint, plan(up, 64, down), recipe, tmp_path / "out"))
    k_up, v_up = model.matrix("k_up"), model.matrix("v_up")
    assert (k_up.format.name, v_up.format.name) == ("q8", "k4")
    assert np.array_equal(v_up.unpack(), sliced(weights, down))
    assert np.abs(k_up.unpack() - sliced(weights, up)).max() < 0.01


def test_the_source_has_its_shape_checked(tmp_path: Path) -> None:
    folder, _ = source(tmp_path / "m", "bf16", 60, 64)
    wrong = plan(HeadSlice(3, 19, 0, 7, True), 64, HeadSlice(3, 19, 7, 19))
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"kv_b.*\[60, 64\].*\[57, 64\]"),
    ):
        convert(checkpoint, wrong, Recipe("exact", "", {}), tmp_path / "out")


@pytest.mark.parametrize("row", [21, 39], ids=["k_up", "v_up"])
def test_a_number_that_is_none_is_found_in_its_source_row(tmp_path: Path, row: int) -> None:
    bits = bf16_bits(np.ones((60, 64)))
    bits[row, 9] = 0x7FC0
    folder = write_checkpoint(tmp_path / "m", {"kv_b.weight": bits})
    both = plan(HeadSlice(3, 20, 0, 7, True), 64, HeadSlice(3, 20, 7, 20))
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointError, match=f"'kv_b.weight': .* in row {row}, column 9"),
    ):
        convert(checkpoint, both, Recipe("exact", "", {}), tmp_path / "out")
