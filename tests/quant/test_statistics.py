"""Files of statistics: what they say of a matrix, what is refused, and what becomes of a conversion that uses them."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpu_runtime import plan_for
from quant.building import partial_folder
from quant.checkpoint import Checkpoint
from quant.container import open_model
from quant.convert import convert
from quant.errors import CheckpointError, ResourceError, UsageError
from quant.formats import ENCODABLE
from quant.manifest_file import read_manifest
from quant.plan import Plan
from quant.recipe import Recipe, load_recipe
from quant.report import read_report
from quant.statistics import PRIOR, Statistics
from quant.statistics_layout import FACTS, tensors
from quant.statistics_writer import StatisticsWriter
from tests.checkpoints import digests, header_of, write_safetensors
from tests.command import python
from tests.conftest import FIXTURES, Quantized
from tests.reference_calibration import importance

FUSED = FIXTURES / "qwen3_5_fused"
TOKENS = 1000


def plan_of(folder: Path) -> Plan:
    with Checkpoint.open(folder) as source:
        return plan_for(source.config, source.names)


def squares(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Mean squares as real ones are: most near each other, a few far above."""
    return np.exp(1.5 * np.random.default_rng(seed).standard_normal(shape))


def tokens_of(experts: int, seed: int) -> np.ndarray:
    """Some experts see none, some a few, some many."""
    return np.random.default_rng(seed).permutation(np.resize([0, 1, 40, 900], experts))


def written(path: Path, plan: Plan) -> Path:
    """Statistics made up for a plan; expert e of layer l reads `squares(.., 10 l)` a token."""
    with StatisticsWriter(path, plan, dict.fromkeys(FACTS, "made up") | {"tokens": str(TOKENS)}) as out:
        for layer in plan.experts:
            tokens = tokens_of(layer.n_experts, layer.layer)
            sums = {
                part.name: tokens[:, None] * squares((layer.n_experts, part.shape[1]), 10 * layer.layer)
                for part in layer.parts
                if part.name != "up"
            }
            out.add_experts(layer.layer, tokens, sums)
        wide = {name: shape for name, (dtype, shape) in tensors(plan).items() if ".experts" not in name}
        out.add_dense({name: squares(shape, len(name)) for name, shape in wide.items() if name != "head"})
    return path


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(FUSED)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Path:
    return written(tmp_path_factory.mktemp("statistics") / "made.safetensors", plan)


def test_what_was_seen_of_a_matrix_counts_as_much_as_it_was_seen(file: Path, plan: Plan) -> None:
    found = Statistics(file)
    found.check(plan)
    layer = plan.experts[1]
    tokens = tokens_of(layer.n_experts, layer.layer)
    for part in layer.parts:
        shares = squares((layer.n_experts, part.shape[1]), 10 * layer.layer)
        shares /= shares.mean(1, keepdims=True)
        seen = int(tokens.sum())
        all_of_them = importance((tokens[:, None] * shares).sum(0) / seen, seen, np.ones(part.shape[1]), PRIOR)
        for expert in range(layer.n_experts):
            expected = importance(shares[expert], tokens[expert], all_of_them, PRIOR)
            mine = found.importance(f"layers.{layer.layer}.experts.{expert}.{part.name}")
            assert mine is not None
            assert mine.dtype == np.float32
            np.testing.assert_allclose(mine, expected, rtol=2e-3)
    dense = next(dense for dense in plan.dense if dense.role == "shared")
    own = squares((dense.shape[1],), len(dense.name))
    np.testing.assert_allclose(
        found.importance(dense.name), importance(own / own.mean(), TOKENS, np.ones(own.size), PRIOR), rtol=1e-6
    )
    assert found.importance("embed") is None
    assert (found.importance("head") == 1).all(), "of the head nothing was seen"  # type: ignore[union-attr]


def test_a_channel_that_nothing_came_through_still_counts(tmp_path: Path, plan: Plan) -> None:
    with StatisticsWriter(tmp_path / "s", plan, dict.fromkeys(FACTS, "0")) as out:
        for layer in plan.experts:
            wide = {part.name: part.shape[1] for part in layer.parts if part.name != "up"}
            sums = {name: np.zeros((layer.n_experts, cols)) for name, cols in wide.items()}
            for name in wide:
                sums[name][:, 3] = 1e30
            out.add_experts(layer.layer, np.full(layer.n_experts, 10**9), sums)
        out.add_dense({})
    found = Statistics(tmp_path / "s").importance("layers.0.experts.2.down")
    assert found is not None
    assert found.min() > 0
    assert found.argmax() == 3


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path, plan: Plan) -> None:
    facts = dict.fromkeys(FACTS, "0")
    with pytest.raises(KeyboardInterrupt), StatisticsWriter(tmp_path / "s", plan, facts) as out:
        out.add_experts(0, *_nothing(plan))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="tensors are missing"), StatisticsWriter(tmp_path / "s", plan, facts):
        pass
    with pytest.raises(ResourceError, match="nowhere"):
        StatisticsWriter(tmp_path / "nowhere" / "s", plan, facts).__enter__()


def _nothing(plan: Plan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    layer = plan.experts[0]
    wide = {part.name: part.shape[1] for part in layer.parts if part.name != "up"}
    return np.zeros(layer.n_experts, np.int64), {n: np.zeros((layer.n_experts, cols)) for n, cols in wide.items()}


# --- files that are not as they should be ---


def changed(file: Path, to: Path, **metadata: Any) -> Path:
    """A copy with other metadata."""
    header, data = header_of(file)
    header["__metadata__"] = {k: v for k, v in (header["__metadata__"] | metadata).items() if v is not None}
    write_safetensors(to, header, data)
    return to


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "moe-statistics 2"},
        {"format": None},
        {"text": None},
        {"model": 7},
        {"model": "\ud800"},
        {"text": "\x1b[2J"},
        {"tokens": "many"},
        {"tokens": "-1"},
        {"tokens": "9" * 13},
        {"tokens": "٣"},
    ],
    ids=str,
)
def test_files_of_another_kind(file: Path, tmp_path: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="no file of statistics"):
        Statistics(changed(file, tmp_path / "s", **metadata))


def test_files_that_are_damaged(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file of statistics"):
        Statistics(tmp_path / "none")
    (tmp_path / "short").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        Statistics(tmp_path / "short")
    opened = Statistics(changed(file, tmp_path / "s"))
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="shorter"):
        opened.importance("head")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_numbers_that_are_no_mean_squares(file: Path, tmp_path: Path, wrong: float) -> None:
    header, data = header_of(file)
    for name, matrix in (("layers.0.experts.down", "layers.0.experts.1.down"), ("head", "head")):
        kind = "<f2" if header[name]["dtype"] == "F16" else "<f4"
        at = header[name]["data_offsets"][1] - 4
        value = np.full(4 // np.dtype(kind).itemsize, wrong, kind).tobytes()
        write_safetensors(tmp_path / "s", header, data[:at] + value + data[at + 4 :])
        with pytest.raises(CheckpointError, match=f"'{name}' has values that are no mean squares"):
            Statistics(tmp_path / "s").importance(matrix)


def test_statistics_of_another_model(file: Path, tmp_path: Path, plan: Plan) -> None:
    other = plan_of(FIXTURES / "minimax_m2_bf16")
    for found, wanted in ((file, other), (written(tmp_path / "other", other), plan)):
        with pytest.raises(UsageError, match="another model than this checkpoint") as caught:
            Statistics(found).check(wanted)
        assert "made up" in str(caught.value.hint)
    header, data = header_of(file)
    header["more"] = {"dtype": "U8", "shape": [0], "data_offsets": [len(data), len(data)]}
    write_safetensors(tmp_path / "more", header, data)
    with pytest.raises(UsageError, match="'more', which this checkpoint has not"):
        Statistics(tmp_path / "more").check(plan)
    for name, found in (
        ("head", "none of 'head'"),
        ("layers.2.experts.gate", r"'layers.2.experts.gate' is F16 \[\d+,"),
    ):
        header, data = header_of(file)
        entry = header[name]
        if name == "head":
            header["tail"] = header.pop(name)
        else:
            entry["shape"] = [entry["shape"][1], entry["shape"][0]]
        write_safetensors(tmp_path / "s", header, data)
        with pytest.raises(UsageError, match=found):
            Statistics(tmp_path / "s").check(plan)


# --- conversions ---


def calibrated(out: Path, file: Path, recipe: str) -> Path:
    with Checkpoint.open(FUSED) as source:
        plan = plan_for(source.config, source.names)
        return convert(source, plan, load_recipe(recipe).calibrated(Statistics(file)), out)


def test_errors_move_to_where_they_matter_less(file: Path, tmp_path: Path, quantized: Quantized) -> None:
    """In each matrix but few, what is weighed by importance is less, and what is not is more."""
    exact, plain = open_model(quantized(FUSED, "bf16")), open_model(quantized(FUSED, "int4"))
    made, found = open_model(calibrated(tmp_path / "m", file, "int4")), Statistics(file)
    better = worse = 0
    for layer in exact.expert_layers:
        stored = [model.expert_layer(layer) for model in (exact, plain, made)]
        for expert in range(len(stored[0].records)):
            for part in ("gate", "up", "down"):
                weights = []
                for records in stored:
                    place = records.parts[part]
                    tiles = records.records[expert, place.offset : place.offset + place.bytes]
                    tiles = tiles.reshape(-1, place.format.tile_bytes(place.cols))
                    weights.append(place.format.unpack(tiles, place.rows, place.cols).astype(np.float64))
                weight = found.importance(f"layers.{layer}.experts.{expert}.{part}")
                assert weight is not None
                without, with_ = ((weights[0] - some) ** 2 for some in weights[1:])
                better += (with_ * weight).sum() < (without * weight).sum()
                worse += with_.sum() > without.sum()
    count = 3 * sum(len(exact.expert_layer(layer).records) for layer in exact.expert_layers)
    assert better > 0.9 * count
    assert worse > 0.6 * count, "experts that saw nothing have an importance that is nearly even"
    for role in ("attention", "head"):  # eight bits are as they were
        name = next(n for n, entry in exact.manifest["dense"].items() if entry["role"] == role and "format" in entry)
        assert np.array_equal(plain.matrix(name).tiles, made.matrix(name).tiles)


def test_a_calibrated_model_says_so(file: Path, tmp_path: Path) -> None:
    folder = calibrated(tmp_path / "m", file, "int3")
    expected = {
        **dict.fromkeys(("model", "text", "text_sha256"), "made up"),
        "tokens": TOKENS,
        "statistics_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    report = read_report(folder)
    assert report is not None
    assert read_manifest(folder)["calibration"] == report["calibration"] == expected
    assert report["roles"]["expert"]["formats"] == ["q3"]
    manifest = json.loads((folder / "manifest.json").read_text())
    for wrong in ("yes", {}, expected | {"tokens": True}, expected | {"text": 1}):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"calibration": wrong}))
        with pytest.raises(CheckpointError, match="'calibration' must say"):
            read_manifest(folder)


def test_statistics_that_do_not_fit_are_refused_before_a_byte_is_written(file: Path, tmp_path: Path) -> None:
    with Checkpoint.open(FIXTURES / "minimax_m2_bf16") as source, pytest.raises(UsageError, match="another model"):
        recipe = load_recipe("int4").calibrated(Statistics(file))
        convert(source, plan_for(source.config, source.names), recipe, tmp_path / "m")
    assert not list(tmp_path.iterdir())


KILL = """
import os, signal, sys
from pathlib import Path
from quant.convert import Progress
import quant.convert
from tests.quant.test_statistics import calibrated
left, real = int(sys.argv[3]), Progress.__init__
def noted(self, *arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, *arguments)
Progress.__init__ = noted
calibrated(Path(sys.argv[2]), Path(sys.argv[1]), "int3")
"""


def killed(out: Path, file: Path) -> None:
    done = python(KILL, file, out, "84")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert partial_folder(out).exists()


def test_a_killed_conversion_resumes_to_identical_bytes(file: Path, tmp_path: Path) -> None:
    killed(tmp_path / "m", file)
    kept = {path.name: path.stat().st_mtime_ns for path in partial_folder(tmp_path / "m").glob("*.safetensors")}
    assert kept
    resumed = calibrated(tmp_path / "m", file, "int3")
    assert digests(resumed) == digests(calibrated(tmp_path / "whole", file, "int3"))
    assert all((resumed / name).stat().st_mtime_ns == time for name, time in kept.items()), "what was done is kept"


def test_other_statistics_do_not_go_on_with_what_is_there(file: Path, tmp_path: Path) -> None:
    other = changed(file, tmp_path / "other", text="another")
    killed(tmp_path / "m", file)
    made = digests(calibrated(tmp_path / "m", other, "int3"))
    assert made == digests(calibrated(tmp_path / "whole", other, "int3"))


@pytest.mark.parametrize("name", ["q3", "q4", "q4c", "q5", "q6"])
def test_even_importance_is_none(name: str) -> None:
    weights = np.random.default_rng(0).standard_normal((32, 600), np.float32)
    form = ENCODABLE[name]
    for importance_of in (np.ones(600, np.float32), np.full(600, 1e-3, np.float32)):
        packed, sums = form.pack_measured(weights, importance_of)
        assert sums[:, 0].sum() == pytest.approx(form.pack_measured(weights)[1][:, 0].sum(), rel=5e-3)
        assert packed.shape == form.pack(weights).shape


def test_recipes_that_need_statistics_say_so(file: Path) -> None:
    assert load_recipe("int3").needs_statistics
    assert not load_recipe("int4").needs_statistics
    with pytest.raises(UsageError, match="needs statistics") as caught:
        Recipe("mine", "", {"expert": "q3"}).check_statistics()
    assert "moe calibrate" in str(caught.value.hint)
    Recipe("mine", "", {"expert": "q3"}, Statistics(file)).check_statistics()
    with pytest.raises(UsageError, match="embedding = 'q3' needs statistics"):
        Recipe("mine", "", {"embedding": "q3"}, Statistics(file)).check_statistics()
