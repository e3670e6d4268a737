"""Conversion: what it writes, that a stopped one ends in the same bytes, and that a failed one leaves nothing false."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cpu_runtime import Engine, plan_for
from quant.building import partial_folder
from quant.checkpoint import INDEX, Checkpoint
from quant.container import open_model
from quant.convert import convert
from quant.errors import CheckpointError, ResourceError, UnsupportedError, UsageError
from quant.preview import preview
from quant.recipe import load_recipe
from quant.verify import verify
from tests.checkpoints import bf16, change_json, copy_of, digests, header_of, write_safetensors
from tests.command import python
from tests.conftest import DEMO, FIXTURES, ROOT, Quantized, quantize

FUSED = FIXTURES / "qwen3_5_fused"
PREFIX = "model.language_model."


@pytest.mark.parametrize("name", ["qwen3_5_fused", "qwen3_5_per_expert"])
def test_bf16_keeps_every_weight(quantized: Quantized, name: str) -> None:
    model = open_model(quantized(FIXTURES / name, "bf16"))
    with Checkpoint.open(FIXTURES / name) as source:
        plan = plan_for(source.config, source.names)
        for dense in plan.dense:
            stored = model.matrix(dense.name).unpack() if dense.kind == "matrix" else model.vector(dense.name)
            assert np.array_equal(stored, source.values(dense.source))
        for layer in plan.experts:
            found = model.expert_layer(layer.layer)
            for part in layer.parts:
                place = found.parts[part.name]
                for expert in range(layer.n_experts):
                    tiles = found.records[expert, place.offset : place.offset + place.bytes]
                    stored = place.format.unpack(
                        tiles.reshape(-1, place.format.tile_bytes(place.cols)), place.rows, place.cols
                    )
                    start, stop = part.rows or (0, part.shape[0])
                    rows = source.rows(part.tensor(expert), start, stop, expert if part.fused else None)
                    assert np.array_equal(stored, rows)


def test_fused_and_separate_experts_make_the_same_bytes(tmp_path: Path, quantized: Quantized) -> None:
    separate = tmp_path / "separate"
    separate.mkdir()
    shutil.copy(FUSED / "config.json", separate)
    header, data = {}, b""
    with Checkpoint.open(FUSED) as source:
        for name in source.names:
            values = source.values(name)
            stem, _, kind = name.rpartition(".")
            pieces = {name: values}
            if kind == "down_proj":
                pieces = {f"{stem}.{e}.down_proj.weight": v for e, v in enumerate(values)}
            elif kind == "gate_up_proj":
                half = values.shape[1] // 2
                pieces = {f"{stem}.{e}.gate_proj.weight": v[:half] for e, v in enumerate(values)}
                pieces |= {f"{stem}.{e}.up_proj.weight": v[half:] for e, v in enumerate(values)}
            for key, piece in pieces.items():
                raw = bf16(piece)
                header[key] = {
                    "dtype": "BF16",
                    "shape": list(piece.shape),
                    "data_offsets": [len(data), len(data) + len(raw)],
                }
                data += raw
    write_safetensors(separate / "model.safetensors", header, data)
    made, expected = digests(quantize(separate, "int4", tmp_path / "out")), digests(quantized(FUSED, "int4"))
    shards = [name for name in expected if name.endswith(".safetensors")]
    assert len(shards) == 5
    assert {name: made[name] for name in shards} == {name: expected[name] for name in shards}


def test_files_are_safetensors_that_others_read(quantized: Quantized) -> None:
    from safetensors.numpy import load_file

    folder = quantized(FUSED, "int4")
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    found = {name: file.name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert found == index


def test_preview_tells_what_is_made(quantized: Quantized) -> None:
    for recipe in ("int4", "int8", "bf16"):
        folder = quantized(DEMO, recipe)
        with Checkpoint.open(DEMO) as source:
            sizes = preview(source, plan_for(source.config, source.names), load_recipe(recipe))
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        headers = sum(4096 + 8 for _ in folder.glob("*.safetensors")) * 8
        assert 0 <= weights - sizes.output_bytes <= headers
        assert sum(role.bytes for role in sizes.roles) == sizes.output_bytes


KILL = """
import os, signal, sys
from pathlib import Path
from cpu_runtime import plan_for
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.recipe import load_recipe
left = int(sys.argv[3])
def progress(p):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
with Checkpoint.open(Path(sys.argv[1])) as source:
    convert(source, plan_for(source.config, source.names), load_recipe("int4"), Path(sys.argv[2]), on_progress=progress)
"""


@pytest.mark.parametrize("pieces", [1, 40, 60, 84])
def test_a_killed_conversion_resumes_to_identical_bytes(tmp_path: Path, quantized: Quantized, pieces: int) -> None:
    out = tmp_path / FUSED.name
    killed = python(KILL, FUSED, out, str(pieces))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partial = partial_folder(out)
    assert partial.exists()
    assert not out.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in partial.glob("*.safetensors")}
    quantize(FUSED, "int4", out)
    assert digests(out) == digests(quantized(FUSED, "int4"))
    assert not partial.exists()
    assert all((out / name).stat().st_mtime_ns == time for name, time in finished.items()), "finished files are kept"


def test_another_recipe_does_not_go_on_with_what_is_there(tmp_path: Path, quantized: Quantized) -> None:
    out = tmp_path / FUSED.name
    assert python(KILL, FUSED, out, "60").returncode == -signal.SIGKILL
    assert digests(quantize(FUSED, "int8", out)) == digests(quantized(FUSED, "int8"))


def test_a_journal_torn_by_a_power_loss(tmp_path: Path, quantized: Quantized) -> None:
    out = tmp_path / FUSED.name
    assert python(KILL, FUSED, out, "60").returncode == -signal.SIGKILL
    journal = partial_folder(out) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    assert digests(quantize(FUSED, "int4", out)) == digests(quantized(FUSED, "int4"))


def test_two_conversions_of_one_model_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "m"

    def meanwhile(progress: object) -> None:
        with pytest.raises(UsageError, match="another process"):
            quantize(FUSED, "int4", out)

    with Checkpoint.open(FUSED) as source:
        convert(source, plan_for(source.config, source.names), load_recipe("int4"), out, on_progress=meanwhile)


def test_what_has_the_name_already_is_left_alone(tmp_path: Path) -> None:
    """Even a file that is called as our lock is, in a folder that is no model."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "lock").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    for name in ("folder", "file"):
        with pytest.raises(UsageError, match="already exists"):
            quantize(FUSED, "int4", tmp_path / name)
    assert (tmp_path / "folder" / "lock").read_text() == (tmp_path / "file").read_text() == "theirs"


# --- faults in the source ---


def damaged(tmp_path: Path) -> Path:
    return copy_of(FIXTURES / "qwen3_5_per_expert", tmp_path / "source")


def test_an_unknown_family(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    change_json(source / "config.json", model_type="gpt_oss")
    with pytest.raises(UnsupportedError, match="gpt_oss"):
        quantize(source, "int4", tmp_path / "m")
    assert not partial_folder(tmp_path / "m").exists()


def test_a_missing_and_a_left_over_tensor_are_named(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    header, data = header_of(source / "model.safetensors")
    header[PREFIX + "layers.1.surprise"] = header.pop(PREFIX + "layers.1.mlp.gate.weight")
    write_safetensors(source / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match="gate"):
        quantize(source, "int4", tmp_path / "m")
    header[PREFIX + "layers.1.mlp.gate.weight"] = header.pop("mtp.norm.weight")
    write_safetensors(source / "model.safetensors", header, data)
    with pytest.raises(CheckpointError):
        quantize(source, "int4", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    config = json.loads((source / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"embed_tokens.*131"):
        quantize(source, "int4", tmp_path / "m")


def test_a_wrong_dtype(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    header, data = header_of(source / "model.safetensors")
    header["lm_head.weight"]["dtype"] = "I16"
    write_safetensors(source / "model.safetensors", header, data)
    with pytest.raises(UnsupportedError, match=r"lm_head.*I16"):
        quantize(source, "int4", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_weight_that_is_no_number(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    header, data = header_of(source / "model.safetensors")
    at = header["lm_head.weight"]["data_offsets"][0]
    write_safetensors(source / "model.safetensors", header, data[:at] + b"\xc0\x7f" + data[at + 2 :])
    with pytest.raises(CheckpointError, match="lm_head"):
        quantize(source, "int4", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert not partial_folder(tmp_path / "m").exists()


# --- faults of the machine ---


def test_too_little_disk_is_seen_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="needed") as caught:
        quantize(FUSED, "int4", tmp_path / "m")
    assert caught.value.exit_code == 5
    assert not list(partial_folder(tmp_path / "m").glob("*.safetensors*"))


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    script = KILL.replace(
        "left = ", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\nleft = "
    )
    out = tmp_path / FUSED.name
    result = python(script, FUSED, out, "-1")
    assert "ResourceError: no space left" in result.stderr
    assert not out.exists()
    assert not list(partial_folder(out).glob("*.tmp"))


def test_an_output_folder_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        quantize(FUSED, "int4", tmp_path / "file" / "m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    source.chmod(0)
    try:
        with pytest.raises(CheckpointError):
            Checkpoint.open(source)
    finally:
        source.chmod(0o755)


# --- the container ---


def test_every_damaged_byte_is_found(tmp_path: Path, quantized: Quantized) -> None:
    folder = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    assert verify(folder) == []
    shard = folder / "experts-002.safetensors"
    data = bytearray(shard.read_bytes())
    data[4096 + open_model(folder).expert_layer(2).records.shape[1] * 5 + 17] ^= 1
    shard.write_bytes(data)
    assert verify(folder) == [
        "experts-002.safetensors: its checksum differs from the manifest's",
        "experts-002.safetensors: expert 5 of layer 2 is damaged",
    ]


@pytest.mark.parametrize("file", ["experts-001.safetensors", "dense.safetensors"])
def test_truncated_and_missing_files(tmp_path: Path, quantized: Quantized, file: str) -> None:
    folder = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    os.truncate(folder / file, (folder / file).stat().st_size - 1)
    with pytest.raises(CheckpointError, match=file):
        open_model(folder)
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        open_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 99},
        {"files": None},
        {"files": {"../x": {"bytes": 1, "sha256": ""}}},
        {"dense": {"embed": {"shape": [-1, 2], "format": "q8"}}},
        {"dense": {"embed": {"shape": [1, 2], "format": "q9"}}},
        {"experts": {"0": {"file": "experts-000.safetensors", "n_experts": 8}}},
        {"experts": {"zero": {}}},
        {"experts": {"²": {"file": "dense.safetensors"}}},
        {"experts": {"0": {"file": ["dense.safetensors"]}}},
        {"dense": {"embed": {"role": "embedding", "shape": [1, 2], "format": []}}},
        {"dense": {"embed": {"role": "embedding", "shape": [2**61, 4]}}},
        {"files": {"..": {"bytes": 1, "sha256": ""}}},
        {"files": {"a\0b": {"bytes": 1, "sha256": ""}}},
        {"recipe": []},
        {"source": {}},
    ],
    ids=str,
)
def test_a_manifest_is_not_trusted(tmp_path: Path, quantized: Quantized, change: dict[str, object]) -> None:
    folder = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    change_json(folder / "manifest.json", **change)
    with pytest.raises(CheckpointError):
        open_model(folder).vector("embed")


def test_shapes_that_config_json_contradicts(tmp_path: Path, quantized: Quantized) -> None:
    """Kernels trust shapes: fewer experts than a router picks from would be read from beyond the file."""
    folder = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    sound = json.loads((folder / "config.json").read_text())
    for key, value, what in (
        ("num_experts", 9, "router"),
        ("moe_intermediate_size", 64, "expert"),
        ("vocab_size", 8, ""),
    ):
        (folder / "config.json").write_text(json.dumps({**sound, "text_config": {**sound["text_config"], key: value}}))
        with pytest.raises(CheckpointError, match=f"{what}.*config.json says"):
            Engine.open(folder)


def test_a_record_part_that_reaches_beyond_its_record(tmp_path: Path, quantized: Quantized) -> None:
    folder = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["experts"]["0"]["parts"]["down"]["offset"] += 1 << 40
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="beyond"):
        open_model(folder)


PEAK = """
import resource, sys
from pathlib import Path
from cpu_runtime import plan_for
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.preview import preview
from quant.recipe import load_recipe
with Checkpoint.open(Path(sys.argv[1])) as source:
    plan, recipe = plan_for(source.config, source.names), load_recipe("int4")
    convert(source, plan, recipe, Path(sys.argv[2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, preview(source, plan, recipe).peak_bytes)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """One layer whose fused experts are 3.2 GB: memory stays where the preview says."""
    source = tmp_path / "source"
    source.mkdir()
    config = json.loads((FUSED / "config.json").read_text())
    config["text_config"] |= {
        "hidden_size": 2048,
        "num_hidden_layers": 1,
        "layer_types": ["linear_attention"],
        "num_experts": 256,
        "moe_intermediate_size": 1024,
    }
    (source / "config.json").write_text(json.dumps(config))
    header, at = {}, 0
    with Checkpoint.open(FUSED) as small:
        plan = plan_for(config, small.names)
    shapes = {dense.source: list(dense.shape) for dense in plan.dense}
    shapes[PREFIX + "layers.0.mlp.experts.gate_up_proj"] = [256, 2048, 2048]
    shapes[PREFIX + "layers.0.mlp.experts.down_proj"] = [256, 2048, 1024]
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    write_safetensors(source / "model.safetensors", header, b"")
    os.truncate(source / "model.safetensors", (source / "model.safetensors").stat().st_size + at)
    command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / "m")]
    peak, predicted = map(int, subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.split())
    assert at > 3e9
    assert peak < predicted < 1e9
