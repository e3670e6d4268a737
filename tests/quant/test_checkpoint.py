"""Reading checkpoints, sound ones and all the ways in which a download can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.checkpoint import INDEX, Checkpoint
from quant.errors import CheckpointError, ModelNotFound, UnsupportedError
from quant.safetensors_file import read_header
from tests.checkpoints import bf16, change_json, copy_of, write_safetensors
from tests.conftest import FIXTURES

FUSED = FIXTURES / "qwen3_5_fused"


def single(folder: Path, header: dict[str, Any], data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", header, data)
    return folder


def test_rows_of_every_dtype(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    data = bf16(values) + values.astype(np.float16).tobytes() + values.tobytes()
    header = {
        "a": {"dtype": "BF16", "shape": [2, 3, 4], "data_offsets": [0, 48]},
        "b": {"dtype": "F16", "shape": [2, 3, 4], "data_offsets": [48, 96]},
        "c": {"dtype": "F32", "shape": [2, 3, 4], "data_offsets": [96, 192]},
    }
    with Checkpoint.open(single(tmp_path / "m", header, data)) as checkpoint:
        for name in "abc":
            assert np.array_equal(checkpoint.values(name), values)
            assert np.array_equal(checkpoint.rows(name, 1, 3, expert=1), values[1, 1:3])


def test_a_tensor_beyond_4_gib(tmp_path: Path) -> None:
    rows, cols = 1_200_000, 2048  # 4.9 GB of bf16, all holes but the last row
    folder = single(
        tmp_path / "m", {"big": {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [0, rows * cols * 2]}}, b""
    )
    last = np.arange(cols, dtype=np.float32)
    with (folder / "model.safetensors").open("r+b") as file:
        start = file.seek(0, os.SEEK_END)
        file.seek(start + (rows - 1) * cols * 2)
        file.write(bf16(last))
    with Checkpoint.open(folder) as checkpoint:
        assert np.array_equal(checkpoint.rows("big", rows - 1, rows), bf16_rounded(last)[None])
        assert not checkpoint.rows("big", rows - 2, rows - 1).any()


def bf16_rounded(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_shards_are_found_through_the_index_alone(tmp_path: Path) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    for number, shard in enumerate(sorted(folder.glob("*.safetensors"))):
        shard.rename(folder / f"oddly-named-{number}")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {k: f"oddly-named-{int('00001' not in v)}" for k, v in index["weight_map"].items()}
    (folder / INDEX).write_text(json.dumps(index))
    with Checkpoint.open(folder) as renamed, Checkpoint.open(FUSED) as original:
        assert set(renamed.names) == set(original.names)
        name = "model.language_model.embed_tokens.weight"
        assert np.array_equal(renamed.values(name), original.values(name))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        Checkpoint.open(tmp_path / "nothing")


def test_truncated_shard(tmp_path: Path) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    shard = next(folder.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 1000)
    with pytest.raises(CheckpointError, match="truncated") as caught:
        Checkpoint.open(folder)
    assert shard.name in str(caught.value)
    assert caught.value.hint


def test_index_naming_a_missing_file(tmp_path: Path) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    shard = next(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "a\0b", "x" * 300, "\ud800", ""]
)
def test_index_naming_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    change_json(folder / INDEX, weight_map={"a": name})
    with pytest.raises(CheckpointError, match="outside"):
        Checkpoint.open(folder)


def test_index_naming_a_tensor_that_is_not_there(tmp_path: Path) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["ghost"] = next(iter(index["weight_map"].values()))
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="ghost"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"weight_map": 3}', "\x00\xff", "[" * 100_000])
def test_index_that_is_no_index(tmp_path: Path, text: str) -> None:
    folder = copy_of(FUSED, tmp_path / "m")
    (folder / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=INDEX):
        Checkpoint.open(folder)


@pytest.mark.parametrize("size", [2**60, 2**63, 2**64 - 1, 10**9])
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(size.to_bytes(8, "little") + b"{}" + b" " * 100)
    with pytest.raises(CheckpointError, match="header"):
        read_header(path)


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F33"},
        {"dtype": 7},
        {"shape": [2, 3]},
        {"shape": [-2, -2]},
        {"shape": [2**62, 2**62]},
        {"shape": [True, 4]},
        {"shape": "22"},
        {"data_offsets": [0, 17]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 2**70]},
        {"shape": [9 * 10**4299, 4]},
        {"data_offsets": [0.0, 16.0]},
    ],
    ids=lambda entry: str(entry)[:40],
)
def test_wrong_entries(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"t": ENTRY | entry}, bytes(16))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    "offsets", [([0, 16], [8, 24]), ([0, 16], [20, 36]), ([4, 20], [20, 36])], ids=["overlap", "hole", "start"]
)
def test_tensors_must_cover_the_file(tmp_path: Path, offsets: tuple[list[int], list[int]]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {str(n): ENTRY | {"data_offsets": o} for n, o in enumerate(offsets)}, bytes(36))
    with pytest.raises(CheckpointError):
        read_header(path)


def test_a_header_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    text = json.dumps({"t": ENTRY}).encode("utf-16")
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(CheckpointError, match="not JSON"):
        read_header(path)


def test_a_config_of_a_gigabyte(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="1073741824 bytes"):
        Checkpoint.open(tmp_path)


def test_a_dtype_without_a_decoder(tmp_path: Path) -> None:
    header = {"t": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}
    with (
        Checkpoint.open(single(tmp_path / "m", header, bytes(16))) as checkpoint,
        pytest.raises(UnsupportedError, match="I64"),
    ):
        checkpoint.values("t")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_an_error_or_a_header(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_any_json_is_an_error_or_a_header(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    text = json.dumps(value).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    try:
        read_header(path)
    except CheckpointError:
        return
    assert isinstance(value, dict)
