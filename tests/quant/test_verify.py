"""`verify`: that every byte of a model's folder is looked at, and that what is damaged is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from quant import uncached
from quant.container import open_model
from quant.errors import CheckpointError
from quant.manifest import seal_fault
from quant.verify import verify
from tests.checkpoints import copy_of
from tests.conftest import FIXTURES, Quantized

FUSED = FIXTURES / "qwen3_5_fused"
FLIPS = 6  # in each file


@pytest.fixture
def folder(quantized: Quantized, tmp_path: Path) -> Path:
    return copy_of(quantized(FUSED, "int4"), tmp_path / "m")


def flip(path: Path, byte: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def found(folder: Path) -> list[str]:
    """What verifying says, or the one error where the manifest can't be read at all."""
    try:
        return verify(folder)
    except CheckpointError as error:
        return [str(error)]


def test_a_flipped_bit_anywhere_is_found(folder: Path) -> None:
    assert verify(folder) == []
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        for byte, bit in {
            (0, 0),
            (size - 1, 7),
            *zip(rng.integers(0, size, FLIPS), rng.integers(0, 8, FLIPS), strict=True),
        }:
            flip(path, int(byte), int(bit))
            faults = found(folder)
            assert faults, f"{path.name}: bit {bit} of byte {byte}"
            assert any(path.name in fault or path.name == "manifest.json" for fault in faults)
            flip(path, byte, bit)
    assert verify(folder) == []


def test_a_flipped_bit_of_any_byte_of_the_manifest_is_found(folder: Path) -> None:
    text = (folder / "manifest.json").read_bytes()
    assert seal_fault(text, json.loads(text)) is None
    for byte in range(0, len(text), 7):
        changed = text[:byte] + bytes([text[byte] ^ 1 << byte % 8]) + text[byte + 1 :]
        try:
            value = json.loads(changed)
        except ValueError:
            continue
        assert seal_fault(changed, value), f"byte {byte}"


def test_what_is_damaged_is_named(folder: Path) -> None:
    model = open_model(folder)
    info = model._tensors["dense.safetensors"]["layers.1.moe.router"]
    record_bytes = model.expert_layer(2).records.shape[1]
    flip(folder / "dense.safetensors", info.offset + 5, 3)
    flip(folder / "experts-002.safetensors", 4096 + 3 * record_bytes, 0)
    flip(folder / "experts-001.safetensors", 100, 1)  # in its header
    lines = verify(folder)
    assert "dense.safetensors: tensor 'layers.1.moe.router' is damaged" in lines
    assert "experts-002.safetensors: expert 3 of layer 2 is damaged" in lines
    assert [line for line in lines if line.startswith("experts-001")][0].endswith("differs from the manifest's")
    assert len([line for line in lines if "damaged" in line]) == 2
    for file in ("dense.safetensors", "experts-000.safetensors"):
        os.truncate(folder / file, 4096)
    (folder / "config.json").unlink()
    lines = verify(folder)
    assert any(line.startswith("dense.safetensors: 4096 bytes, the manifest says") for line in lines)
    assert "config.json: No such file or directory" in lines


def test_a_flipped_bit_of_a_record_is_found_when_it_is_read(folder: Path) -> None:
    model, rng = open_model(folder), np.random.default_rng(1)
    layer = model.expert_layer(1)
    for _ in range(100):
        expert, byte = int(rng.integers(0, len(layer.records))), int(rng.integers(0, layer.records.shape[1]))
        record = layer.records[expert].copy()
        layer.check(expert, record)
        record[byte] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(CheckpointError, match=f"expert {expert} of layer 1 is damaged"):
            layer.check(expert, record)


def test_a_manifest_without_its_own_checksum(folder: Path) -> None:
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    for seal in (None, 7, "0" * 64, "\ud800" * 64):
        path.write_text(json.dumps({k: v for k, v in {**value, "sha256": seal}.items() if v is not None}))
        assert [line for line in verify(folder) if line.startswith("manifest.json: it ")]


def test_progress_reaches_the_end(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    verify(folder, lambda done, total: told.append((done, total)))
    assert told[-1] == (open_model(folder).bytes, open_model(folder).bytes)
    assert told == sorted(told)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 3 * 4096, 40_961])
def test_uncached_bytes_are_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
    path = tmp_path / "file"
    path.write_bytes(data)
    monkeypatch.setattr(uncached, "PIECE", 8192)
    for direct in (True, False):
        if not direct:
            monkeypatch.delattr(os, "O_DIRECT", raising=False)
        assert b"".join(map(bytes, uncached.pieces(path))) == data
        for start in {0, size // 3, max(0, size - 5)}:
            assert b"".join(map(bytes, uncached.pieces(path, start, size - start))) == data[start:]
            assert b"".join(map(bytes, uncached.pieces(path, start, 1))) == data[start : start + 1]
        with pytest.raises(OSError, match="ends after"):
            list(uncached.pieces(path, 0, size + 1))
        with pytest.raises(FileNotFoundError):
            list(uncached.pieces(tmp_path / "none"))
