"""Conversion from every source encoding, and what can be wrong with each: all of it seen before a byte is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant.building import partial_folder
from quant.checkpoint import Checkpoint
from quant.container import QuantizedModel, open_model
from quant.convert import convert
from quant.errors import CheckpointError, UnsupportedError
from quant.formats import ENCODABLE
from quant.plan import Dense, ExpertLayer, Part, Plan
from quant.preview import preview
from quant.recipe import Recipe
from tests.reference_encodings import (
    INT4_CONFIG,
    bf16_bits,
    bf16_value,
    fp8_weights,
    int4_weights,
    write_checkpoint,
)

E, R, C = 3, 40, 96  # experts, rows, inputs: no multiple of 16 or 64
BLOCK = (16, 24)  # 40 rows leave a last block of 8
FP8 = {"quant_method": "fp8", "weight_block_size": list(BLOCK)}
EXACT = Recipe("exact", "", {})
Q8 = Recipe("q8", "", {"expert": "q8", "attention": "q8"})
RANDOM = np.random.default_rng(0)


def bf16(rows: int = R, cols: int = C) -> np.ndarray:
    return bf16_bits(RANDOM.standard_normal((rows, cols), np.float32))


def fp8(rows: int = R, cols: int = C) -> tuple[np.ndarray, np.ndarray]:
    codes = RANDOM.integers(0, 0x7F, (rows, cols), np.uint8) | RANDOM.integers(0, 2, (rows, cols), np.uint8) << 7
    grid = RANDOM.uniform(0.5, 2, (-(-rows // BLOCK[0]), -(-cols // BLOCK[1]))).astype(np.float32)
    return codes.astype(np.uint8), grid


def int4(rows: int = R, cols: int = C) -> tuple[np.ndarray, np.ndarray]:
    words = RANDOM.integers(0, 1 << 32, (rows, cols // 8), np.uint32).view(np.int32)
    return words, bf16_bits(RANDOM.uniform(0.001, 0.1, (rows, cols // 32)).astype(np.float32))


def value(bits: np.ndarray) -> np.ndarray:
    return np.array([bf16_value(b) for b in bits.reshape(-1)], np.float32).reshape(bits.shape)


def as_int4(name: str, words: np.ndarray, scales: np.ndarray) -> dict[str, Any]:
    extents = np.array([len(words), 8 * words.shape[1]], np.int32)
    return {name + "_packed": words, name + "_scale": scales, name + "_shape": extents}


def dense(*shape: int) -> Plan:
    return Plan((Dense("x", "x.weight", "attention", shape),), ())


PARTS = tuple(Part(name, "{expert}." + name + ".weight", (R, C)) for name in ("gate", "up"))
EXPERTS = Plan((), (ExpertLayer(0, E, PARTS),))


def made(folder: Path, plan: Plan, recipe: Recipe) -> QuantizedModel:
    with Checkpoint.open(folder) as source:
        return open_model(convert(source, plan, recipe, folder.parent / f"out-{recipe.name}"))


def expert(model: QuantizedModel, number: int, part: str) -> tuple[str, np.ndarray]:
    """(format, weights) of one matrix of layer 0."""
    records = model.expert_layer(0)
    place = records.parts[part]
    tiles = records.records[number, place.offset : place.offset + place.bytes]
    tiles = tiles.reshape(-1, place.format.tile_bytes(place.cols))
    return place.format.name, place.format.unpack(tiles, place.rows, place.cols)


# --- sound ones ---


@pytest.mark.parametrize("dtype", ["float32", "float16", "bf16"])
def test_plain(tmp_path: Path, dtype: str) -> None:
    stored = bf16() if dtype == "bf16" else RANDOM.standard_normal((R, C)).astype(dtype)
    model = made(write_checkpoint(tmp_path / "m", {"x.weight": stored}), dense(R, C), EXACT)
    matrix = model.matrix("x")
    assert matrix.format.name == ("bf16" if dtype == "bf16" else "f32")
    assert np.array_equal(matrix.unpack(), value(stored) if dtype == "bf16" else stored.astype(np.float32))


@pytest.mark.parametrize("scale_dtype", ["F32", "BF16"])
def test_fp8(tmp_path: Path, scale_dtype: str) -> None:
    codes, grid = fp8()
    stored = bf16_bits(grid) if scale_dtype == "BF16" else grid
    grid = value(stored) if scale_dtype == "BF16" else grid
    tensors = {"x.weight": codes, "x.weight_scale_inv": stored}
    folder = write_checkpoint(tmp_path / "m", tensors, quantization_config=FP8)
    matrix = made(folder, dense(R, C), EXACT).matrix("x")
    assert matrix.format.name == "f32"
    assert np.array_equal(matrix.unpack(), fp8_weights(codes, grid, BLOCK))


def test_the_block_of_fp8_is_128_unless_it_is_given(tmp_path: Path) -> None:
    codes, grid = RANDOM.integers(0, 0x7F, (130, 129), np.uint8), np.array([[1, 2], [3, 4]], np.float32)
    folder = write_checkpoint(tmp_path / "m", {"x.weight": codes, "x.weight_scale_inv": grid})
    found = made(folder, dense(130, 129), EXACT).matrix("x").unpack()
    assert np.array_equal(found, fp8_weights(codes, grid, (128, 128)))


def test_fp8_experts(tmp_path: Path) -> None:
    stored = {f"{e}.{part.name}.weight": fp8() for e in range(E) for part in PARTS}
    tensors = {name: codes for name, (codes, _) in stored.items()}
    tensors |= {name + "_scale_inv": grid for name, (_, grid) in stored.items()}
    folder = write_checkpoint(tmp_path / "m", tensors, text_config={"quantization_config": FP8})
    model, small = made(folder, EXPERTS, EXACT), made(folder, EXPERTS, Q8)
    for e in range(E):
        for part in PARTS:
            exact = fp8_weights(*stored[f"{e}.{part.name}.weight"], BLOCK)
            assert np.array_equal(expert(model, e, part.name)[1], exact)
            name, found = expert(small, e, part.name)
            assert name == "q8"
            assert np.array_equal(found, ENCODABLE["q8"].unpack(ENCODABLE["q8"].pack(exact), R, C))


def test_fused_fp8_experts(tmp_path: Path) -> None:
    codes, grids = (np.stack(x) for x in zip(*(fp8(2 * R, C) for _ in range(E)), strict=True))
    tensors = {"gate_up_proj": codes, "gate_up_proj_scale_inv": grids}
    folder = write_checkpoint(tmp_path / "m", tensors, quantization_config=FP8)
    parts = (Part("gate", "gate_up_proj", (R, C), (0, R)), Part("up", "gate_up_proj", (R, C), (R, 2 * R)))
    model = made(folder, Plan((), (ExpertLayer(0, E, parts),)), EXACT)
    for e in range(E):
        exact = fp8_weights(codes[e], grids[e], BLOCK)
        assert np.array_equal(expert(model, e, "gate")[1], exact[:R])
        assert np.array_equal(expert(model, e, "up")[1], exact[R:])


@pytest.mark.parametrize("places", ["top", "text", "both"])
@pytest.mark.parametrize(("recipe", "form"), [(EXACT, "f32"), (Q8, "k4")])
def test_int4_experts_keep_every_weight(tmp_path: Path, places: str, recipe: Recipe, form: str) -> None:
    stored = {f"{e}.{part.name}.weight": int4() for e in range(E) for part in PARTS}
    config: dict[str, Any] = {} if places == "text" else {"quantization_config": INT4_CONFIG}
    if places != "top":
        config["text_config"] = {"quantization_config": INT4_CONFIG}
    tensors = {k: v for name, held in stored.items() for k, v in as_int4(name, *held).items()}
    model = made(write_checkpoint(tmp_path / "m", tensors, **config), EXPERTS, recipe)
    for e in range(E):
        for part in PARTS:
            name, found = expert(model, e, part.name)
            assert name == form
            assert np.array_equal(found, int4_weights(*stored[f"{e}.{part.name}.weight"]))


def test_preview_knows_the_formats_of_the_source(tmp_path: Path) -> None:
    tensors = {k: v for e in range(E) for p in PARTS for k, v in as_int4(f"{e}.{p.name}.weight", *int4()).items()}
    folder = write_checkpoint(tmp_path / "m", tensors, quantization_config=INT4_CONFIG)
    with Checkpoint.open(folder) as source:
        sizes = preview(source, EXPERTS, Q8)
    assert sizes.roles[0].formats == ("k4",)
    assert sizes.roles[0].weights == E * 2 * R * C


# --- faults ---

Tensors = dict[str, Any]


def fault(tmp_path: Path, plan: Plan, tensors: Tensors, recipe: Recipe = Q8, **config: Any) -> CheckpointError:
    """The error of a conversion, which leaves nothing."""
    folder = write_checkpoint(tmp_path / "m", tensors, **config)
    with Checkpoint.open(folder) as source, pytest.raises(CheckpointError) as caught:
        convert(source, plan, recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not partial_folder(tmp_path / "out").exists()
    return caught.value


def seen_in_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> np.ndarray:
        raise AssertionError("data was read")

    monkeypatch.setattr(Checkpoint, "_read", none)


def fp8_tensors() -> Tensors:
    codes, grid = fp8()
    return {"x.weight": codes, "x.weight_scale_inv": grid}


def changed(**changes: Any) -> Tensors:
    return {k: v for k, v in (fp8_tensors() | changes).items() if v is not None}


SCALE = "x.weight_scale_inv"


@pytest.mark.parametrize(
    ("tensors", "kind", "parts"),
    [
        (changed(**{SCALE: None}), CheckpointError, ["'x.weight_scale_inv' is missing", "F8_E4M3"]),
        (
            changed(**{SCALE: np.ones((3, 3), np.float32)}),
            CheckpointError,
            ["'x.weight_scale_inv' is [3, 3], expected [3, 4]", "16 x 24 of [40, 96]"],
        ),
        (changed(**{SCALE: np.ones((2, 4), np.float32)}), CheckpointError, ["[2, 4], expected [3, 4]"]),
        (changed(**{SCALE: np.ones((1,), np.float32)}), UnsupportedError, ["one scale", "weight_block_size"]),
        (changed(**{SCALE: np.ones((), np.float32)}), UnsupportedError, ["one scale", "weight_block_size"]),
        (
            changed(**{SCALE: None, "x.weight_scale": np.ones((), np.float32)}),
            UnsupportedError,
            ["'x.weight_scale'", "weight_block_size"],
        ),
        (changed(**{SCALE: np.ones((3, 4), np.float16)}), UnsupportedError, [SCALE, "F16", "F32 or BF16"]),
        (changed(**{"x.weight": fp8(R, C - 1)[0]}), CheckpointError, ["'x.weight' is [40, 95]", "says [40, 96]"]),
        (changed(**{"x.weight": fp8(C, R)[0], SCALE: fp8(C, R)[1]}), CheckpointError, ["axes are transposed"]),
        (changed(**{"x.weight": np.zeros(R, np.uint8)}), UnsupportedError, ["'x.weight'", "1 dimensions"]),
        (changed(**{"x.weight": ("F8_E5M2", fp8()[0])}), UnsupportedError, ["'x.weight'", "F8_E5M2"]),
        (changed(**{"y.weight_scale_inv": np.ones((3, 4), np.float32)}), CheckpointError, ["no place", "y.weight"]),
        ({"x.weight": bf16(), SCALE: fp8()[1]}, CheckpointError, ["no place", SCALE]),
    ],
    ids=range(13),
)
def test_fp8_headers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensors: Tensors,
    kind: type[CheckpointError],
    parts: list[str],
) -> None:
    seen_in_headers(monkeypatch)
    error = fault(tmp_path, dense(R, C), tensors, quantization_config=FP8)
    assert type(error) is kind
    assert all(part in str(error) for part in parts), str(error)


@pytest.mark.parametrize("block", [128, [128], [0, 128], [128.0, 128], [True, 1], "128x128"], ids=str)
def test_a_block_size_that_is_none(tmp_path: Path, block: Any) -> None:
    error = fault(tmp_path, dense(R, C), fp8_tensors(), quantization_config=FP8 | {"weight_block_size": block})
    assert isinstance(error, UnsupportedError)
    assert "quantization_config.weight_block_size is" in str(error)


def test_an_fp8_vector(tmp_path: Path) -> None:
    plan = Plan((Dense("x", "x.weight", "norm", (R, C), kind="vector"),), ())
    assert "vectors are" in str(fault(tmp_path, plan, fp8_tensors(), quantization_config=FP8))


def test_fp8_numbers(tmp_path: Path) -> None:
    for number in (0xFF, 0x7F):
        tensors = fp8_tensors()
        tensors["x.weight"][37, 5] = number
        message = str(fault(tmp_path, dense(R, C), tensors, quantization_config=FP8))
        assert "'x.weight': a weight is not finite (1 NaN), in row 37, column 5" in message
    for number in (np.nan, np.inf):
        tensors = fp8_tensors()
        tensors[SCALE][2, 3] = number
        message = str(fault(tmp_path, dense(R, C), tensors, quantization_config=FP8))
        assert f"{SCALE!r}: a scale is not finite" in message
        assert "in row 2, column 3" in message


def test_a_number_that_is_none_in_a_fused_tensor(tmp_path: Path) -> None:
    bits = bf16_bits(np.ones((E, R, C)))
    bits[2, 17, 5] = 0x7F80
    plan = Plan((), (ExpertLayer(0, E, (Part("down", "down_proj", (R, C)),)),))
    folder = write_checkpoint(tmp_path / "m", {"down_proj": bits})
    with (
        Checkpoint.open(folder) as source,
        pytest.raises(CheckpointError, match="'down_proj': .* in row 17, column 5 of expert 2"),
    ):
        convert(source, plan, Q8, tmp_path / "out")


def int4_tensors(**changes: Any) -> Tensors:
    return {k: v for k, v in (as_int4("x.weight", *int4()) | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("tensors", "kind", "parts"),
    [
        (int4_tensors(**{"x.weight_scale": None}), CheckpointError, ["'x.weight_scale' is missing"]),
        (int4_tensors(**{"x.weight_packed": None}), CheckpointError, ["'x.weight' is missing"]),
        (
            int4_tensors(**{"x.weight_packed": int4(R, 88)[0]}),
            CheckpointError,
            ["'x.weight_packed' is [40, 11], 40 rows of 88 inputs", "'x.weight_scale' is [40, 3]"],
        ),
        (int4_tensors(**{"x.weight_packed": int4(R, 64)[0]}), CheckpointError, ["64 inputs", "'x.weight_scale'"]),
        (int4_tensors(**{"x.weight_scale": bf16_bits(np.ones((R, 6)))}), CheckpointError, ["is [40, 6], expected"]),
        (as_int4("x.weight", *int4(R, 64)), CheckpointError, ["'x.weight_packed' is [40, 64]", "says [40, 96]"]),
        (as_int4("x.weight", *int4(96, 64)), CheckpointError, ["'x.weight_packed' is [96, 64]", "[96, 8] packed"]),
        (int4_tensors(**{"x.weight_scale": np.ones((R, 3), np.float32)}), UnsupportedError, ["F32", "BF16"]),
        (int4_tensors(**{"x.weight_packed": ("I64", np.ones((R, 12), np.int64))}), UnsupportedError, ["I64", "I32"]),
        (int4_tensors(**{"x.weight_packed": np.ones((1, R, 12), np.int32)}), UnsupportedError, ["2 dimensions"]),
        (int4_tensors(**{"x.weight_shape": np.ones(2, np.float32)}), CheckpointError, ["'x.weight_shape' is [2] F32"]),
        (int4_tensors(**{"x.weight_shape": np.ones(3, np.int64)}), CheckpointError, ["'x.weight_shape' is [3] I64"]),
        (int4_tensors(**{"x.weight_g_idx": np.ones(C, np.int32)}), CheckpointError, ["no place", "g_idx"]),
    ],
    ids=range(13),
)
def test_int4_headers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tensors: Tensors,
    kind: type[CheckpointError],
    parts: list[str],
) -> None:
    seen_in_headers(monkeypatch)
    error = fault(tmp_path, dense(R, C), tensors, quantization_config=INT4_CONFIG)
    assert type(error) is kind
    assert all(part in str(error) for part in parts), str(error)


def test_int4_shapes_of_either_width_and_none(tmp_path: Path) -> None:
    for n, extents in enumerate([np.array([R, C], np.int64), None]):
        folder = write_checkpoint(
            tmp_path / str(n), int4_tensors(**{"x.weight_shape": extents}), quantization_config=INT4_CONFIG
        )
        with Checkpoint.open(folder) as source:
            assert source.rows("x.weight", 3, 7).shape == (4, C)


WEIGHTS = "quantization_config.config_groups.group_0.weights."


def with_weights(**changes: Any) -> dict[str, Any]:
    config = copy.deepcopy(INT4_CONFIG)
    config["config_groups"]["group_0"]["weights"].update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (with_weights(num_bits=8), WEIGHTS + "num_bits is 8, expected 4"),
        (with_weights(type="float"), WEIGHTS + "type is 'float', expected 'int'"),
        (with_weights(symmetric=False), WEIGHTS + "symmetric is False"),
        (with_weights(symmetric=1), WEIGHTS + "symmetric is 1"),
        (with_weights(strategy="channel"), WEIGHTS + "strategy is 'channel'"),
        (with_weights(group_size=128), WEIGHTS + "group_size is 128, expected 32"),
        (with_weights(actorder="group"), WEIGHTS + "actorder is 'group'"),
        (INT4_CONFIG | {"format": "marlin-24"}, "quantization_config.format is 'marlin-24'"),
        (INT4_CONFIG | {"config_groups": None}, "quantization_config.config_groups is None"),
        (INT4_CONFIG | {"config_groups": {"a": {}}}, "quantization_config.config_groups.a.weights is None"),
        (INT4_CONFIG | {"config_groups": {"a": 3}}, "quantization_config.config_groups.a.weights is None"),
        (INT4_CONFIG | {"quant_method": "awq"}, "quantization_config.quant_method is 'awq'"),
        (None, "quantization_config is missing"),
        ("int4", "quantization_config is 'int4', expected an object"),
    ],
    ids=str,
)
def test_int4_of_another_kind(tmp_path: Path, config: Any, key: str) -> None:
    folder = write_checkpoint(tmp_path / "m", int4_tensors(), quantization_config=config)
    with pytest.raises(UnsupportedError) as caught, Checkpoint.open(folder) as source:
        convert(source, dense(R, C), Q8, tmp_path / "out")
    assert key in str(caught.value)


@pytest.mark.parametrize("recipe", [EXACT, Q8], ids=lambda r: r.name)
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
def test_int4_scales_that_are_no_numbers(tmp_path: Path, recipe: Recipe, bits: int) -> None:
    tensors = int4_tensors()
    tensors["x.weight_scale"][33, 2] = bits
    message = str(fault(tmp_path, dense(R, C), tensors, recipe, quantization_config=INT4_CONFIG))
    assert "'x.weight_scale': a scale is not finite" in message and "in row 33, column 2" in message


@pytest.mark.parametrize(
    "tensors",
    [{"x.qweight": np.ones((R, C // 8), np.int32)}, {"x.weight": np.ones((R, C), np.int8)}],
    ids=["other names", "other dtype"],
)
@pytest.mark.parametrize(
    "place", [lambda c: {"quantization_config": c}, lambda c: {"text_config": {"quantization_config": c}}]
)
def test_another_method(tmp_path: Path, tensors: Tensors, place: Callable[[Any], dict[str, Any]]) -> None:
    error = fault(tmp_path, dense(R, C), tensors, **place({"quant_method": "gptq"}))
    assert isinstance(error, UnsupportedError)
    for part in ("'x.weight'", "quantization_config.quant_method is 'gptq'", "fp8", "compressed-tensors"):
        assert part in str(error)


def test_experts_that_are_stored_unlike(tmp_path: Path) -> None:
    tensors: Tensors = {f"{e}.{part.name}.weight": bf16() for e in range(E) for part in PARTS}
    tensors["2.up.weight"] = np.ones((R, C), np.float32)
    error = fault(tmp_path, EXPERTS, tensors)
    assert isinstance(error, UnsupportedError)
    assert "'2.up.weight' is F32, but '0.up.weight' is BF16" in str(error)


def test_fused_experts_with_their_axes_transposed(tmp_path: Path) -> None:
    plan = Plan((), (ExpertLayer(0, E, (Part("down", "down_proj", (R, C)),)),))
    error = fault(tmp_path, plan, {"down_proj": bf16_bits(np.ones((E, C, R)))})
    assert str(error) == "tensor 'down_proj' is [3, 96, 40], config.json says [3, 40, 96]: its axes are transposed"
