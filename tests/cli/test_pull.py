"""`moe pull` against a local server that speaks the Hub's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from quant.checkpoint import INDEX
from tests.checkpoints import change_json, copy_of
from tests.command import check_error, moe
from tests.conftest import FIXTURES
from tests.hub_server import COMMIT, Hub, serving

REPO = "tiny/Qwen3.5"
SHARDS = [f"model.safetensors-0000{n}-of-00002.safetensors" for n in (1, 2)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository that may be changed, with files that nobody needs."""
    folder = copy_of(FIXTURES / "qwen3_5_fused", tmp_path / "source")
    (folder / "recorded.npz").unlink()
    (folder / "README.md").write_text("a card")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "other.safetensors").write_bytes(b"not in the index")
    return folder


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with serving({REPO: source}) as server:
        yield server


def pull(hub: Hub, home: Path, name: str = REPO) -> CompletedProcess[str]:
    return moe("pull", name, home=home, HF_ENDPOINT=hub.url)


def test_what_is_needed_arrives_once(hub: Hub, home: Path, source: Path) -> None:
    result = pull(hub, home)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == sorted([*SHARDS, INDEX, "config.json"])
    assert (folder / SHARDS[0]).read_bytes() == (source / SHARDS[0]).read_bytes()
    assert "2 of 2 weight files" in result.stderr
    assert "free" in result.stderr
    again = pull(hub, home, f"{hub.url}/{REPO}/tree/main")
    assert again.stdout == result.stdout
    assert [hub.fetched(shard) for shard in SHARDS] == [1, 1]
    listed = json.loads(moe("list", "--json", home=home).stdout)
    assert [(note["repo"], note["revision"]) for note in listed["sources"]] == [(REPO, COMMIT)]


def test_a_failed_pull_goes_on_with_what_is_missing(hub: Hub, home: Path) -> None:
    hub.faults["GET", SHARDS[1]] = [403]
    check_error(pull(hub, home), 4, REPO)
    listed = moe("list", "--json", home=home).stdout
    assert [source["complete"] for source in json.loads(listed)["sources"]] == [False]
    result = pull(hub, home)
    assert result.returncode == 0
    assert "1 of 2 weight files" in result.stderr
    assert hub.fetched(SHARDS[0]) == 1


def test_a_server_that_is_busy_for_a_while(hub: Hub, home: Path) -> None:
    hub.faults["GET", SHARDS[0]] = [503, 500]
    assert pull(hub, home).returncode == 0


def test_a_damaged_file_is_fetched_again(hub: Hub, home: Path, source: Path) -> None:
    hub.faults["GET", SHARDS[0]] = ["flip"]
    hub.faults["GET", "config.json"] = ["flip"]
    result = pull(hub, home)
    assert result.returncode == 0, result.stderr
    for file in (SHARDS[0], "config.json"):
        assert (Path(result.stdout.strip()) / file).read_bytes() == (source / file).read_bytes()
        assert hub.fetched(file) == 2


def test_a_file_that_stays_damaged(hub: Hub, home: Path) -> None:
    hub.faults["GET", SHARDS[0]] = ["flip", "flip"]
    check_error(pull(hub, home), 6, SHARDS[0], "checksum")
    assert not [path for path in home.rglob("*") if path.name == SHARDS[0]]
    assert pull(hub, home).returncode == 0


def test_too_little_disk(hub: Hub, home: Path) -> None:
    hub.listed[SHARDS[0]] = {"size": 10**15}
    check_error(pull(hub, home), 5, "needed", "HF_HUB_CACHE")
    assert hub.fetched(SHARDS[0]) == hub.fetched(SHARDS[1]) == 0


def test_a_family_we_can_not_run_is_refused_before_its_weights(hub: Hub, home: Path, source: Path) -> None:
    change_json(source / "config.json", model_type="gpt_oss")
    check_error(pull(hub, home), 6, "gpt_oss")
    assert hub.fetched(SHARDS[0]) == 0


@pytest.mark.parametrize("name", ["../../outside", "missing.safetensors", "/etc/passwd"])
def test_an_index_that_names_what_is_not_there(hub: Hub, home: Path, source: Path, name: str) -> None:
    change_json(source / INDEX, weight_map={"a": name})
    check_error(pull(hub, home), 6, INDEX)


def test_no_such_repository_and_revision(hub: Hub, home: Path) -> None:
    check_error(pull(hub, home, "tiny/nothing"), 3, "tiny/nothing", "HF_TOKEN")
    check_error(pull(hub, home, f"{REPO}@v9"), 3, "v9")
    check_error(pull(hub, home, "no name"), 2, "org/name")


def test_a_gated_repository(hub: Hub, home: Path) -> None:
    hub.faults["GET", "/revision/main"] = [403]
    hub.faults["GET", f"/api/models/{REPO}"] = [403]
    check_error(pull(hub, home), 4, "licence", REPO)


def test_no_hub_at_all(home: Path) -> None:
    result = moe("pull", REPO, home=home, HF_ENDPOINT="http://127.0.0.1:9")
    check_error(result, 4, "can't be reached", "connection")
