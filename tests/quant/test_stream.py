"""Conversion from shards that come and go: the same bytes as from the whole, no more on the disk than foreseen."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import pytest

from cpu_runtime import plan_for
from quant.arriving import ArrivingCheckpoint, Shard
from quant.building import partial_folder
from quant.checkpoint import INDEX, Checkpoint, held_by, read_json, tensors_by_file
from quant.convert import convert
from quant.errors import CheckpointError
from quant.journal import unfinished
from quant.recipe import load_recipe
from quant.report import Sums
from quant.safetensors_file import read_header
from quant.stream import convert_stream
from quant.stream_plan import StreamPlan, stream_plan
from tests.checkpoints import copy_of, digests, header_of, poisoned, resharded, write_safetensors
from tests.conftest import FIXTURES, quantize

OnFile = Callable[[str, Sums], None]


class Cut(Exception):
    """The run ends here."""


def no_word(file: str, sums: Sums) -> None:
    """Nobody listens."""


@dataclass
class FromFolder:
    """Shards from a folder, copied on request; `most` is what was on the disk at its fullest."""

    source: Path
    folder: Path
    stop_before: str = ""
    came: list[str] = field(default_factory=list)
    most: int = 0

    def begin(self, shard: Shard) -> None:
        pass

    def complete(self, shard: Shard) -> None:
        if shard.name == self.stop_before:
            raise Cut
        shutil.copy(self.source / shard.name, shard.path)
        self.came.append(shard.name)
        self.look()

    def look(self, _: object = None) -> None:
        self.most = max(self.most, sum(file.stat().st_blocks * 512 for file in self.folder.iterdir()))


def opened(source: Path, out: Path) -> ArrivingCheckpoint:
    folder = partial_folder(out)
    shards = []
    for name, names in sorted(tensors_by_file(read_json(source / INDEX)).items()):
        key = hashlib.sha256((source / name).read_bytes()).hexdigest()
        held = held_by(name, names, read_header(source / name)[0])
        infos = {n: info._replace(file=folder / key) for n, info in held.items()}
        shards.append(Shard(name, key, folder / key, False, infos))
    return ArrivingCheckpoint(source, read_json(source / "config.json"), shards, folder)


def planned(source: Path, recipe: str, out: Path) -> StreamPlan:
    checkpoint = opened(source, out)
    return stream_plan(checkpoint, plan_for(checkpoint.config, checkpoint.names), load_recipe(recipe))


def stream(source: Path, recipe: str, out: Path, stop_before: str = "", on_file: OnFile = no_word) -> FromFolder:
    supply = FromFolder(source, partial_folder(out), stop_before)
    convert_stream(planned(source, recipe, out), out, supply, on_progress=supply.look, on_file=on_file)
    return supply


@pytest.mark.parametrize("recipe", ["int4", "bf16"])
@pytest.mark.parametrize(
    "name", ["qwen3_5_fused", "qwen3_5_per_expert", "qwen3_5_fp8", "deepseek_v3_fp8", "minimax_m2_fp8", "kimi_k25_int4"]
)
def test_the_same_bytes_as_from_the_whole(tmp_path: Path, name: str, recipe: str) -> None:
    source = resharded(FIXTURES / name, tmp_path / name, 7)
    made, whole = tmp_path / "made" / name, tmp_path / "whole" / name
    supply = stream(source, recipe, made)
    assert digests(made) == digests(quantize(source, recipe, whole))
    assert supply.came == sorted(set(supply.came))
    assert not partial_folder(made).exists()


@pytest.mark.parametrize("name", ["qwen3_5_fused", "deepseek_v3_fp8"])
def test_no_more_disk_than_foreseen(tmp_path: Path, name: str) -> None:
    source = resharded(FIXTURES / name, tmp_path / name, 7)
    work = planned(source, "int4", tmp_path / "m")
    foreseen = work.peak_bytes(ahead=False)
    largest = max(shard.bytes for shard in work.shards)
    supply = stream(source, "int4", tmp_path / "m")
    blocks = 4096 * 40  # files are whole blocks on the disk, and headers and the journal are not counted
    assert supply.most <= foreseen + blocks
    if name == "qwen3_5_fused":  # nothing of it waits for anything
        output = sum(file.stat().st_size for file in (tmp_path / "m").glob("*.safetensors"))
        assert foreseen <= output + largest


def test_a_stopped_run_asks_only_for_what_is_left(tmp_path: Path) -> None:
    """Stopped before each shard in turn: every shard comes once in all, tensors that wait for theirs too."""
    source = resharded(FIXTURES / "deepseek_v3_fp8", tmp_path / "source", 7)
    out = tmp_path / "m"
    came = []
    for shard in [shard.name for shard in opened(source, out).shards][1:]:
        with pytest.raises(Cut):
            stream(source, "int4", out, stop_before=shard)
        came += [file.name for file in partial_folder(out).glob("*.waiting")]
    assert came, "some scales lie in other shards than what they scale"
    last = stream(source, "int4", out)
    assert len(last.came) == 1
    assert digests(out) == digests(quantize(source, "int4", tmp_path / "whole" / "source"))


@pytest.mark.parametrize("name", ["qwen3_5_fused", "deepseek_v3_fp8"])
def test_each_file_is_told_once_with_its_errors_though_the_run_stops(tmp_path: Path, name: str) -> None:
    source = resharded(FIXTURES / name, tmp_path / name, 5)
    expected: dict[str, Sums] = {}
    with Checkpoint.open(source) as whole:
        plan, recipe = plan_for(whole.config, whole.names), load_recipe("int4")
        convert(whole, plan, recipe, tmp_path / "whole", on_file=lambda file, sums: expected.update({file: sums}))
    told: list[tuple[str, Sums]] = []
    out = tmp_path / "m"
    for shard in [*[shard.name for shard in opened(source, out).shards][1:], None]:
        with contextlib.suppress(Cut):
            stream(source, "int4", out, shard or "", lambda file, sums: told.append((file, sums)))
        if shard:
            begun = unfinished(partial_folder(out))
            assert 0 < begun.done < begun.total
            assert not begun.running
    assert sorted(file for file, _ in told) == sorted(expected)
    assert dict(told) == expected


@pytest.mark.parametrize(
    ("name", "tensor", "element", "bits"),
    [
        ("qwen3_5_per_expert", "lm_head.weight", 7, b"\xc0\x7f"),
        ("qwen3_5_fused", "model.language_model.layers.1.mlp.experts.down_proj", -5, b"\x80\xff"),
        ("qwen3_5_fused", "model.language_model.norm.weight", 3, b"\xc0\x7f"),
        ("deepseek_v3_fp8", "model.layers.1.mlp.experts.2.down_proj.weight_scale_inv", 0, b"\0\0\xc0\x7f"),
    ],
)
def test_what_is_no_number_stops_it_with_the_same_words(
    tmp_path: Path, name: str, tensor: str, element: int, bits: bytes
) -> None:
    source = resharded(FIXTURES / name, tmp_path / name, 5)
    info = read_header(source / read_json(source / INDEX)["weight_map"][tensor])[0][tensor]
    poisoned(source, {tensor: [element % prod(info.shape)]}, bits)
    with pytest.raises(CheckpointError, match=re.escape(tensor.removesuffix("_scale_inv"))) as expected:
        quantize(source, "int4", tmp_path / "whole")
    with pytest.raises(CheckpointError) as found:
        stream(source, "int4", tmp_path / "m")
    assert (str(found.value), found.value.hint) == (str(expected.value), expected.value.hint)


def test_a_run_that_was_stopped_after_the_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = resharded(FIXTURES / "qwen3_5_fused", tmp_path / "source", 3)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr("quant.stream.finish", cut)
        stream(source, "int4", tmp_path / "m")
    assert not stream(source, "int4", tmp_path / "m").came
    assert digests(tmp_path / "m") == digests(quantize(source, "int4", tmp_path / "whole" / "source"))


def cut(*_: object) -> None:
    raise Cut


def test_shards_of_skipped_tensors_are_not_asked_for(tmp_path: Path) -> None:
    source = resharded(FIXTURES / "qwen3_5_per_expert", tmp_path / "source", 3, apart="mtp.")
    assert stream(source, "int4", tmp_path / "m").came == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2)]


def test_a_shard_with_another_header_than_was_announced(tmp_path: Path) -> None:
    source = resharded(FIXTURES / "qwen3_5_fused", tmp_path / "source", 3)
    out = tmp_path / "m"
    work = planned(source, "int4", out)
    other = copy_of(source, tmp_path / "other")
    file = other / "model-00001-of-00003.safetensors"
    header, data = header_of(file)
    norms = [name for name, entry in header.items() if name.endswith("layernorm.weight")]
    places = [header[name]["data_offsets"] for name in norms]
    for name, place in zip(norms, [*places[1:], places[0]], strict=True):
        header[name]["data_offsets"] = place
    write_safetensors(file, header, data)
    with pytest.raises(CheckpointError, match="not the one that was read"):
        convert_stream(work, out, FromFolder(other, partial_folder(out)))
    assert not out.exists()


def test_an_output_that_has_gone_is_not_made_up(tmp_path: Path) -> None:
    source = resharded(FIXTURES / "qwen3_5_fused", tmp_path / "source", 3)
    with pytest.raises(Cut):
        stream(source, "int4", tmp_path / "m", stop_before="model-00003-of-00003.safetensors")
    next(partial_folder(tmp_path / "m").glob("dense*.tmp")).unlink()
    with pytest.raises(CheckpointError, match=r"dense\.safetensors has gone"):
        stream(source, "int4", tmp_path / "m")
