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
from tests.hub_server import COMMIT, Fault, Hub, serving

REPO = "tiny/Qwen3.5"
SHARDS = [f"model.safetensors-0000{n}-of-00002.safetensors" for n in (1, 2)]
HEADER = 1 << 16  # bytes of each shard that are read ahead


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


def pull(hub: Hub, home: Path, name: str = REPO, *options: str, **environment: str) -> CompletedProcess[str]:
    return moe("pull", name, *options, home=home, HF_ENDPOINT=hub.url, **environment)


def test_what_is_needed_arrives_once(hub: Hub, home: Path, source: Path) -> None:
    result = pull(hub, home)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.strip())
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == sorted([*SHARDS, INDEX, "config.json"])
    assert (folder / SHARDS[0]).read_bytes() == (source / SHARDS[0]).read_bytes()
    assert "2 of 2 weight files" in result.stderr
    assert "free" in result.stderr
    sent = {shard: (source / shard).stat().st_size + HEADER for shard in SHARDS}
    assert {shard: hub.sent[shard] for shard in SHARDS} == sent
    again = pull(hub, home, f"{hub.url}/{REPO}/tree/main")
    assert again.stdout == result.stdout
    assert {shard: hub.sent[shard] for shard in SHARDS} == sent
    listed = json.loads(moe("list", "--json", home=home).stdout)
    assert [(note["repo"], note["revision"]) for note in listed["sources"]] == [(REPO, COMMIT)]


def test_the_library_finds_what_was_pulled_and_asks_for_nothing(hub: Hub, home: Path) -> None:
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    folder = Path(pull(hub, home).stdout.strip())
    cache = home / "hf" / "hub"
    assert try_to_load_from_cache(REPO, SHARDS[0], cache_dir=cache) == str(folder / SHARDS[0])
    [repo] = scan_cache_dir(cache).repos
    [revision] = repo.revisions
    assert (revision.commit_hash, revision.refs, len(revision.files)) == (COMMIT, {"main"}, 4)
    assert not scan_cache_dir(cache).warnings


def test_the_plan_is_shown_and_nothing_done(hub: Hub, home: Path) -> None:
    result = pull(hub, home, REPO, "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert facts["path"] is None
    assert (facts["plan"]["files"], facts["plan"]["missing"]) == (2, 2)
    assert facts["plan"]["fetch"] == facts["plan"]["disk"] == facts["plan"]["final"]
    assert all(hub.sent[shard] == HEADER for shard in SHARDS)
    assert not list((home / "hf").rglob("*.safetensors"))


def test_a_failed_pull_goes_on_with_what_is_missing(hub: Hub, home: Path) -> None:
    hub.faults["GET", SHARDS[1]] = [Fault(), 403]
    check_error(pull(hub, home), 4, REPO)
    listed = moe("list", "--json", home=home).stdout
    assert [source["complete"] for source in json.loads(listed)["sources"]] == [False]
    sent = hub.sent[SHARDS[0]]
    result = pull(hub, home)
    assert result.returncode == 0
    assert "1 of 2 weight files" in result.stderr
    assert hub.sent[SHARDS[0]] == sent


def test_what_another_program_put_in_the_cache_is_checked(hub: Hub, home: Path, source: Path) -> None:
    folder = Path(pull(hub, home).stdout.strip())
    shard = (folder / SHARDS[1]).resolve()
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    before = hub.sent[SHARDS[1]]
    result = pull(hub, home)
    assert result.returncode == 0, result.stderr
    assert "damaged" in result.stderr
    assert (folder / SHARDS[1]).read_bytes() == (source / SHARDS[1]).read_bytes()
    assert hub.sent[SHARDS[1]] == before + (source / SHARDS[1]).stat().st_size


def test_one_commit_though_the_repository_moves(hub: Hub, home: Path, source: Path, tmp_path: Path) -> None:
    other = copy_of(source, tmp_path / "other")
    change_json(other / "config.json", transformers_version="9")

    def move(sent: int) -> None:
        if hub.sent[SHARDS[0]] > HEADER:
            hub.move(REPO, "d" * 40, other)

    hub.on_sent = move
    folder = Path(pull(hub, home).stdout.strip())
    assert folder.name == COMMIT
    assert (folder / "config.json").read_bytes() == (source / "config.json").read_bytes()
    moved = Path(pull(hub, home).stdout.strip())
    assert moved.name == "d" * 40
    assert (moved / "config.json").read_bytes() == (other / "config.json").read_bytes()
    assert hub.sent[SHARDS[0]] == (source / SHARDS[0]).stat().st_size + HEADER, "the same content is not fetched again"


# --- refused before the weights ---


def check_untouched(hub: Hub) -> None:
    assert all(hub.sent[shard] <= HEADER for shard in SHARDS)


def test_too_little_disk(hub: Hub, home: Path) -> None:
    full = "import shutil, types\nshutil.disk_usage = lambda path: types.SimpleNamespace(free=1_000_000)"
    for options in ([], ["--quantize", "int4"], ["--dry-run"]):
        result = moe("pull", REPO, *options, home=home, before=full, HF_ENDPOINT=hub.url)
        check_error(result, 5, "0.3 GB needed", "HF_HOME")
    assert all(hub.sent[shard] == 3 * HEADER for shard in SHARDS)


def test_sizes_that_contradict_each_other(hub: Hub, home: Path) -> None:
    hub.faults["GET", SHARDS[0]] = [Fault(size=10**15)]
    check_error(pull(hub, home), 6, SHARDS[0], "1000000000000000")
    hub.listed[SHARDS[1]] = {"size": 10**15}
    check_error(pull(hub, home), 6, SHARDS[1], "1000000000000000")
    check_untouched(hub)


def test_a_family_we_can_not_run(hub: Hub, home: Path, source: Path) -> None:
    change_json(source / "config.json", model_type="gpt_oss")
    check_error(pull(hub, home), 6, "gpt_oss")
    check_untouched(hub)


@pytest.mark.parametrize("name", ["../../outside", "missing.safetensors", "/etc/passwd"])
def test_an_index_that_names_what_is_not_there(hub: Hub, home: Path, source: Path, name: str) -> None:
    change_json(source / INDEX, weight_map={"a": name})
    check_error(pull(hub, home), 6, INDEX)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a\\b", "C:x", "a/../b", "red\x1b[31m", "two\nlines", "a//b"])
def test_a_listing_with_a_name_that_leaves_the_folder(hub: Hub, home: Path, path: str) -> None:
    hub.extra = [{"type": "file", "path": path, "size": 1, "oid": "a" * 40}]
    result = pull(hub, home)
    check_error(result, 6, "no name inside a folder")
    assert "\x1b" not in result.stderr
    assert hub.sent.total() == 0


@pytest.mark.parametrize(
    "change",
    [{"size": -1}, {"size": "1"}, {"oid": "../x"}, {"lfs": {"oid": "../x", "size": 1, "pointerSize": 1}}],
    ids=str,
)
def test_a_listing_that_can_not_be(hub: Hub, home: Path, change: dict[str, object]) -> None:
    hub.listed[SHARDS[0]] = change
    check_error(pull(hub, home), 6, SHARDS[0])
    assert hub.sent.total() == 0


@pytest.mark.parametrize("entry", [None, "file", {"type": "file"}, {"type": "file", "path": 1}], ids=str)
def test_an_entry_that_makes_no_sense(hub: Hub, home: Path, entry: object) -> None:
    hub.extra = [entry]
    check_error(pull(hub, home), 6)
    assert hub.sent.total() == 0


def test_a_listing_that_goes_on_elsewhere(hub: Hub, home: Path) -> None:
    hub.next_page = "http://127.0.0.1:9"
    check_error(pull(hub, home, HF_TOKEN="hf_secret"), 6, "not the Hub")
    assert hub.sent.total() == 0


def test_a_pointer_in_place_of_the_weights(hub: Hub, home: Path, source: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5000000000\n"
    (source / SHARDS[1]).write_text(text)
    check_error(pull(hub, home), 6, "Git-LFS pointer", SHARDS[1])
    assert hub.sent[SHARDS[0]] <= HEADER


def test_a_header_that_does_not_fit_its_file(hub: Hub, home: Path, source: Path) -> None:
    whole = (source / SHARDS[1]).read_bytes()
    (source / SHARDS[1]).write_bytes(whole[:-64])
    check_error(pull(hub, home), 6, SHARDS[1], "truncated")
    assert hub.sent[SHARDS[0]] <= HEADER


# --- what the Hub refuses ---


def test_no_such_repository_and_revision(hub: Hub, home: Path) -> None:
    check_error(pull(hub, home, "tiny/nothing"), 3, "tiny/nothing", "HF_TOKEN")
    check_error(pull(hub, home, f"{REPO}@v9"), 3, "v9")
    check_error(pull(hub, home, "no name"), 2, "org/name")


def test_a_gated_repository(hub: Hub, home: Path) -> None:
    hub.faults["GET", "/revision/main"] = [403]
    hub.faults["GET", f"/api/models/{REPO}"] = [403]
    check_error(pull(hub, home), 4, "licence", REPO)


def test_a_private_repository(hub: Hub, home: Path) -> None:
    """The Hub says the same of one that is private and of one that is not there."""
    check_error(pull(hub, home, "tiny/private"), 3, "or is private", "hf auth login")
    check_error(pull(hub, home, "tiny/private", HF_TOKEN="hf_mine"), 3, "or is private", "your token may not read it")


def test_a_token_that_is_not_accepted(hub: Hub, home: Path) -> None:
    refused = Fault(status=401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    hub.faults["GET", f"/api/models/{REPO}"] = [refused]
    check_error(pull(hub, home, HF_TOKEN="hf_old"), 4, "token", "unset HF_TOKEN")


def test_a_proxy_that_answers_with_a_page(hub: Hub, home: Path) -> None:
    hub.faults["GET", f"/api/models/{REPO}"] = [Fault(page=True)]
    check_error(pull(hub, home), 4, "web page", "proxy")
    hub.faults["GET", SHARDS[0]] = [Fault(page=True)]
    check_error(pull(hub, home), 4, "web page", SHARDS[0])
    assert pull(hub, home).returncode == 0


def test_no_hub_at_all(home: Path) -> None:
    hasty = "import cli.patience\ncli.patience.PATIENCE = cli.patience.Patience(unreached=2)"
    result = moe("pull", REPO, home=home, before=hasty, HF_ENDPOINT="http://127.0.0.1:9")
    check_error(result, 4, "can't be reached", "connection")


def test_offline(hub: Hub, home: Path) -> None:
    check_error(pull(hub, home, HF_HUB_OFFLINE="1"), 4, "HF_HUB_OFFLINE")


def test_a_folder_that_can_not_be_written(hub: Hub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_error(pull(hub, home, HF_HUB_CACHE=str(tmp_path / "file" / "cache")), 5, "can't write", "HF_HOME")
