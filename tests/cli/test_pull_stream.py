"""`moe pull --quantize`, and pulling what somebody has quantized."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from quant.building import partial_folder
from tests.checkpoints import change_json, copy_of, digests, resharded
from tests.command import check_error, moe
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.hub_server import COMMIT, Fault, Hub, serving

REPO, READY = "tiny/DeepSeek", "tiny/Demo-int4"
SHARDS = 5
HEADER = 1 << 16  # bytes of each shard that are read ahead


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return resharded(FIXTURES / "deepseek_v3_fp8", tmp_path / "source", SHARDS)


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with serving({REPO: source}) as server:
        yield server


def pull(hub: Hub, home: Path, *options: str, name: str = REPO, before: str = "") -> CompletedProcess[str]:
    return moe("pull", name, *options, home=home, before=before, HF_ENDPOINT=hub.url)


def stop(hub: Hub, home: Path, source: Path) -> None:
    """A stream that has done with three shards."""
    shard = sorted(path.name for path in source.glob("*.safetensors"))[3]
    hub.faults["GET", shard] = [Fault(), 403]
    check_error(pull(hub, home, "--quantize", "int4"), 4, REPO)
    hub.faults.clear()


def test_a_streamed_model_is_the_one_that_quantize_makes(hub: Hub, home: Path, source: Path) -> None:
    streamed = pull(hub, home, "--quantize", "int4", "--json")
    assert streamed.returncode == 0, streamed.stderr
    facts = json.loads(streamed.stdout)
    assert facts["path"] == str(home / "models" / "deepseek-int4")
    assert facts["received"] - facts["twice"] == sum(path.stat().st_size for path in source.iterdir())
    assert not list(home.rglob("model-0*")), "nothing of the source is left"
    assert "moe chat deepseek-int4" in streamed.stderr
    assert pull(hub, home).returncode == 0
    made = moe("quantize", REPO, "--out", "whole", home=home)
    assert made.returncode == 0, made.stderr
    assert digests(Path(facts["path"])) == digests(home / "models" / "whole")


def test_json_says_what_quantize_says(hub: Hub, home: Path, source: Path) -> None:
    options = ["int4-small", "--out", "same", "--json"]
    for more in (["--dry-run"], []):
        pulls = [json.loads(pull(hub, home, "--quantize", *options, *more).stdout) for _ in range(2)]
        assert (home / "models" / "same").exists() is not bool(more)
        assert moe("rm", "same", home=home).returncode == (3 if more else 0)
        made = json.loads(moe("quantize", source, "--recipe", *options, *more, home=home).stdout)
        assert made["made"] is not bool(more)
        assert (made["report"] is None) is bool(more)
        for pulled in pulls:
            assert {key: pulled[key] for key in made} == made
            assert pulled.keys() - made.keys() - {"plan"} == {"repo", "revision", "received", "twice"}


def test_once_made_it_is_not_made_again(hub: Hub, home: Path) -> None:
    first = pull(hub, home, "--quantize", "int4")
    sent = hub.sent.total()
    again = pull(hub, home, "--quantize", "int4")
    assert again.stdout == first.stdout
    assert "here already" in again.stderr
    assert hub.sent.total() == sent
    made = pull(hub, home, "--quantize", "int8", "--out", "deepseek-int4")
    check_error(made, 2, "already exists", "--out")


def test_a_stopped_stream_keeps_to_its_commit(hub: Hub, home: Path, source: Path, tmp_path: Path) -> None:
    shards = sorted(path.name for path in source.glob("*.safetensors"))
    stop(hub, home, source)
    assert partial_folder(home / "models" / "deepseek-int4").is_dir()
    hub.move(REPO, "d" * 40, copy_of(FIXTURES / "deepseek_v3_bf16", tmp_path / "other"))
    before = hub.sent.copy()
    result = pull(hub, home, "--quantize", "int4")
    assert result.returncode == 0, result.stderr
    assert f"going on with {REPO} at {COMMIT[:8]}" in result.stderr
    assert "2 of 5 weight files" in result.stderr
    again = {name for name, sent in hub.sent.items() if sent - before[name] > HEADER}
    assert again <= set(shards[3:])
    assert (
        json.loads((Path(result.stdout.strip()) / "manifest.json").read_text())["source"]["name"] == f"{REPO}@{COMMIT}"
    )


def test_nothing_else_is_made_where_one_was_stopped(hub: Hub, home: Path, source: Path) -> None:
    stop(hub, home, source)
    check_error(moe("quantize", source, "--out", "deepseek-int4", home=home), 2, f"stopped pull of {REPO}", "--out")
    check_error(pull(hub, home, "--quantize", "int8", "--out", "deepseek-int4"), 2, "stopped pull", "moe pull")
    assert pull(hub, home, "--quantize", "int4").returncode == 0


def test_a_stopped_stream_is_listed_with_what_goes_on(hub: Hub, home: Path, source: Path) -> None:
    stop(hub, home, source)
    [listed] = json.loads(moe("list", "--json", home=home).stdout)["models"]
    assert (listed["name"], listed["complete"]) == ("deepseek-int4", False)
    share = int(listed["state"].removeprefix("stopped, ").removesuffix("% done"))
    assert 0 < share < 100
    assert listed["resume"] == f"moe pull {REPO}@{COMMIT} --quantize int4"
    assert f"deepseek-int4 is not whole; to go on: {listed['resume']}" in moe("list", home=home).stderr
    done = moe(*shlex.split(listed["resume"])[1:], home=home, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert "2 of 5 weight files" in done.stderr
    assert "experts-001.safetensors: error" in done.stderr
    assert "furthest from their source" in done.stderr
    made = home / "models" / "deepseek-int4"
    assert moe("show", str(made), "--verify", home=home).returncode == 0
    assert [model["complete"] for model in json.loads(moe("list", "--json", home=home).stdout)["models"]] == [True]


def test_a_recipe_that_needs_statistics_is_refused_before_the_weights(hub: Hub, home: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('description = "three bits"\n[formats]\nexpert = "q3"\n')
    check_error(pull(hub, home, "--quantize", str(recipe)), 2, "needs statistics")
    assert not any(name.endswith(".safetensors") for name in hub.sent)
    assert not (home / "models").exists()


def test_a_commit_that_has_gone(hub: Hub, home: Path, source: Path) -> None:
    stop(hub, home, source)
    hub.move(REPO, "d" * 40, source)
    del hub.commits[REPO, COMMIT]
    check_error(pull(hub, home, "--quantize", "int4"), 3, COMMIT, "moe rm")
    assert moe("rm", "deepseek-int4", home=home).returncode == 0
    assert pull(hub, home, "--quantize", "int4").returncode == 0


def test_shards_in_the_cache_are_used_and_kept(hub: Hub, home: Path) -> None:
    folder = Path(pull(hub, home).stdout.strip())
    sent = hub.sent.total()
    result = pull(hub, home, "--quantize", "int4")
    assert result.returncode == 0, result.stderr
    assert hub.sent.total() == sent
    assert len(list(folder.glob("model-0*.safetensors"))) == SHARDS


def test_a_shard_that_stays_damaged_is_not_used(hub: Hub, home: Path, source: Path) -> None:
    shard = sorted(path.name for path in source.glob("*.safetensors"))[2]
    hub.faults["GET", shard] = [Fault(), *[Fault(flip=True)] * 3]  # it may come in two halves
    check_error(pull(hub, home, "--quantize", "int4"), 6, shard, "damaged twice")
    assert not (home / "models" / "deepseek-int4").exists()
    hub.faults.clear()
    assert pull(hub, home, "--quantize", "int4").returncode == 0


def test_the_plan_of_a_stream(hub: Hub, home: Path, source: Path) -> None:
    result = pull(hub, home, "--quantize", "int4", "--dry-run", "--json")
    plan = json.loads(result.stdout)["plan"]
    weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert (plan["files"], plan["fetch"]) == (SHARDS, weights)
    assert plan["final"] < plan["disk"] < plan["final"] + weights
    assert not (home / "models").exists()
    check_error(pull(hub, home, "--quantize", "int5"), 2, "recipe")


# --- ready-made ---


@pytest.fixture
def ready(tmp_path: Path, quantized: Quantized) -> Iterator[tuple[Hub, Path]]:
    folder = copy_of(quantized(DEMO, "int4"), tmp_path / "ready")
    with serving({READY: folder}) as server:
        yield server, folder


def test_a_ready_made_model_is_pulled_into_the_store_and_runs(ready: tuple[Hub, Path], home: Path) -> None:
    hub, folder = ready
    result = pull(hub, home, name=READY)
    assert result.returncode == 0, result.stderr
    made = home / "models" / "demo-int4"
    assert result.stdout.strip() == str(made)
    assert digests(made) == digests(folder)
    sent = hub.sent.total()
    assert pull(hub, home, name=READY).stdout == result.stdout
    assert hub.sent.total() == sent
    asked = moe("run", "demo-int4", "What is 4 + 5?", "--temp", "0", home=home)
    assert asked.stdout == "4 + 5 = 9.\n"
    check_error(pull(hub, home, "--quantize", "int4", name=READY), 2, "quantized already")


def test_a_stopped_pull_of_one_goes_on(ready: tuple[Hub, Path], home: Path) -> None:
    hub, folder = ready
    large = "experts-003.safetensors"
    hub.faults["GET", large] = [403]
    check_error(pull(hub, home, name=READY), 4, READY)
    [listed] = json.loads(moe("list", "--json", home=home).stdout)["models"]
    assert (listed["state"], listed["resume"]) == ("stopped", f"moe pull {READY}@{COMMIT}")
    sent = hub.sent["experts-001.safetensors"]
    assert sent
    assert pull(hub, home, name=READY).returncode == 0
    assert hub.sent["experts-001.safetensors"] == sent
    assert digests(home / "models" / "demo-int4") == digests(folder)


@pytest.mark.parametrize("file", ["experts-001.safetensors", "tokenizer.json"])
def test_one_that_is_not_what_its_manifest_says(ready: tuple[Hub, Path], home: Path, file: str) -> None:
    hub, folder = ready
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    check_error(pull(hub, home, name=READY), 6, file, "manifest.json")
    assert not (home / "models" / "demo-int4").exists()
    assert hub.sent["dense.safetensors"] == 0 or file == "tokenizer.json"


def test_a_manifest_that_names_what_is_not_there(ready: tuple[Hub, Path], home: Path) -> None:
    hub, folder = ready
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../x", "gone.safetensors"):
        files = manifest["files"] | {name: {"bytes": 1, "sha256": "0" * 64}}
        change_json(folder / "manifest.json", files=files)
        check_error(pull(hub, home, name=READY), 6, name)


def test_a_manifest_that_is_not_what_was_written(ready: tuple[Hub, Path], home: Path) -> None:
    hub, folder = ready
    change_json(folder / "manifest.json", source={"name": "another", "bytes": 1})
    check_error(pull(hub, home, name=READY), 6, "manifest.json", "its own checksum")
    assert not (home / "models").exists()
