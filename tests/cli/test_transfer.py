"""One file through a bad connection: cut, stalled, busy, damaged, and killed at any byte."""

from __future__ import annotations

import email.utils
import hashlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli import hub, part_file, patience
from cli.hub_errors import WebPage
from cli.hub_listing import RemoteFile, Repository
from cli.meter import Meter
from cli.names import HubName
from cli.part_file import JOURNAL, PART, PartFile, durable_bytes
from cli.patience import Patience
from cli.transfer import download
from quant.errors import AccessError, CheckpointError, ResourceError, UsageError
from tests.hub_server import PIECE, Fault, Hub, serving

REPO, NAME = "tiny/one", "weights.safetensors"
SIZE = 50 * PIECE + 77


@pytest.fixture
def data() -> bytes:
    return b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(SIZE // 32 + 1))[:SIZE]


@pytest.fixture
def server(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A repository of one large file; waits are a hundredth of what they are for a person."""
    source = tmp_path / "source"
    source.mkdir()
    (source / NAME).write_bytes(data)
    (source / "config.json").write_text("{}")
    monkeypatch.setattr(patience, "PATIENCE", Patience(0.6, 2, 9, 3, 0.01))
    monkeypatch.setattr(part_file, "CHECKPOINT_BYTES", 4 * PIECE)
    with serving({REPO: source}) as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", URL.format(running.url))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        yield running


URL = "{}/{{repo_id}}/resolve/{{revision}}/{{filename}}"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "here" / "weights"


def looked_up() -> tuple[Repository, RemoteFile]:
    repository = hub.look_up(HubName(REPO))
    return repository, repository.files[NAME]


def fetched(target: Path) -> Meter:
    meter = Meter(said.append)
    said.clear()
    download(*looked_up(), target, meter)
    return meter


said: list[str] = []


def test_a_cut_connection_goes_on_at_the_byte(server: Hub, target: Path, data: bytes) -> None:
    server.faults["GET", NAME] = [Fault(cut=n * PIECE + n) for n in (0, 3, 1, 20)]
    meter = fetched(target)
    assert target.read_bytes() == data
    assert meter.received == SIZE
    assert meter.twice == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["weights"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_is_always_cut(server: Hub, target: Path, data: bytes, reset: bool) -> None:
    server.always = Fault(cut=7 * PIECE, reset=reset)
    meter = fetched(target)
    assert (meter.received, meter.twice) == (SIZE, 0)
    assert target.read_bytes() == data


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server(server: Hub, target: Path, data: bytes, status: int) -> None:
    server.faults["GET", NAME] = [Fault(cut=PIECE), *[Fault(status=status)] * 3]
    fetched(target)
    assert target.read_bytes() == data


def test_a_server_that_says_when(server: Hub, target: Path, data: bytes) -> None:
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.faults["GET", NAME] = [Fault(status=429, headers={"Retry-After": text}) for text in ("1", date)]
    begun = time.monotonic()
    fetched(target)
    assert time.monotonic() - begun > 1
    assert target.read_bytes() == data


def test_a_server_that_asks_for_a_year(server: Hub, target: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(60, 2, 9, 0.1, 0.01))
    server.faults["GET", NAME] = [Fault(status=429, headers={"Retry-After": "31536000"})]
    fetched(target)
    assert target.read_bytes() == data


def test_a_stall_is_said_and_got_over(server: Hub, target: Path, data: bytes) -> None:
    server.faults["GET", NAME] = [Fault(stall=5 * PIECE, seconds=1), *[Fault(stall=0, seconds=1)] * 4]
    fetched(target)
    assert any("nothing has come for" in text for text in said), said
    assert target.read_bytes() == data


def test_patience_ends_and_what_is_here_is_kept(
    server: Hub, target: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", Patience(0.6, 2, 2, 3, 0.01))
    server.faults["GET", NAME] = [Fault(cut=30 * PIECE), *[Fault(status=503)] * 99]
    with pytest.raises(AccessError, match="503") as caught:
        fetched(target)
    assert caught.value.hint and "kept" in caught.value.hint
    assert durable_bytes(target) == 30 * PIECE
    server.faults.clear()
    assert fetched(target).received == SIZE - 30 * PIECE
    assert target.read_bytes() == data


def test_a_server_that_knows_no_ranges(server: Hub, target: Path, data: bytes) -> None:
    server.always = Fault(whole=True)
    server.faults["GET", NAME] = [Fault(whole=True, cut=30 * PIECE)]
    meter = fetched(target)
    assert target.read_bytes() == data
    assert meter.twice == 30 * PIECE
    assert meter.received == SIZE + 30 * PIECE


def test_a_damaged_file_is_fetched_again_and_then_given_up(server: Hub, target: Path, data: bytes) -> None:
    server.faults["GET", NAME] = [Fault(flip=True)]
    meter = fetched(target)
    assert target.read_bytes() == data
    assert meter.twice == SIZE
    assert any("damaged" in text for text in said)
    target.unlink()
    server.faults["GET", NAME] = [Fault(flip=True), Fault(flip=True)]
    with pytest.raises(CheckpointError, match="damaged twice"):
        fetched(target)
    assert not list(target.parent.iterdir())


def test_bytes_from_the_wrong_place_are_refused(server: Hub, target: Path, data: bytes) -> None:
    server.faults["GET", NAME] = [Fault(cut=9 * PIECE), Fault(shift=-5)]
    with pytest.raises(CheckpointError, match="asked for byte"):
        fetched(target)
    assert fetched(target).received == SIZE - 9 * PIECE
    assert target.read_bytes() == data


def test_a_page_of_the_right_size(server: Hub, target: Path) -> None:
    server.faults["GET", NAME] = [Fault(page=True, flip=True)]
    with pytest.raises(WebPage, match=NAME):
        fetched(target)
    assert not target.exists()
    assert durable_bytes(target) == 0


@pytest.mark.parametrize("damage", [b"", b"?"], ids=["intact", "damaged"])
def test_what_only_xet_gives_out(
    server: Hub, target: Path, data: bytes, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library, which has a client for it, fetches the file; it is checked like any other."""

    def library(repo: str, name: str, revision: str, local_dir: Path) -> str:
        local_dir.mkdir()
        (local_dir / name).write_bytes(damage + data[len(damage) :])
        return str(local_dir / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", library)
    server.listed[NAME] = {"xetHash": "0" * 64}
    server.always = Fault(status=501)
    if damage:
        with pytest.raises(CheckpointError, match="damaged"):
            fetched(target)
        assert not list(target.parent.iterdir())
    else:
        fetched(target)
        assert target.read_bytes() == data
        assert [path.name for path in target.parent.iterdir()] == [target.name]


# --- the part on the disk ---


def stopped(target: Path, file: RemoteFile, data: bytes, pieces: int) -> None:
    """What a run leaves that was killed: no tidying up."""
    part = PartFile(file, target).__enter__()
    for n in range(pieces):
        part.write(data[n * PIECE : (n + 1) * PIECE])
    os.close(os.dup(part._file.fileno()))
    part._file.close()


@pytest.mark.parametrize("lost", [0, 1, PIECE, 3 * PIECE])
def test_what_the_disk_lost_is_fetched_again(server: Hub, target: Path, data: bytes, lost: int) -> None:
    """After a power loss a part may be shorter than its journal says, and end in zeros."""
    stopped(target, looked_up()[1], data, 11)
    part = target.with_name(target.name + PART)
    if lost:
        os.truncate(part, 11 * PIECE - lost)
        os.truncate(part, 11 * PIECE)
    meter = fetched(target)
    assert target.read_bytes() == data
    kept = 8 * PIECE if lost < 3 * PIECE + 1 else 4 * PIECE
    assert meter.received == SIZE - kept
    assert meter.twice == 3 * PIECE


def test_a_part_that_rotted_is_kept_up_to_the_damage(server: Hub, target: Path, data: bytes) -> None:
    stopped(target, looked_up()[1], data, 12)
    part = target.with_name(target.name + PART)
    with part.open("r+b") as file:
        file.seek(5 * PIECE)
        file.write(b"?" * 9)
    assert fetched(target).received == SIZE - 4 * PIECE
    assert target.read_bytes() == data


@pytest.mark.parametrize("torn", ["", "{", '{"bytes": 99999999, "digest": "x"}\n', '[1]\n{"bytes": 1}\n', "\xff\x00"])
def test_a_torn_journal(server: Hub, target: Path, data: bytes, torn: str) -> None:
    stopped(target, looked_up()[1], data, 12)
    journal = target.with_name(target.name + JOURNAL)
    journal.write_text(journal.read_text()[:-5] + torn)
    assert fetched(target).received == SIZE - 8 * PIECE
    assert target.read_bytes() == data


def test_two_processes_do_not_write_one_part(server: Hub, target: Path) -> None:
    with PartFile(looked_up()[1], target), pytest.raises(UsageError, match="another process"):
        fetched(target)


def test_a_full_disk(server: Hub, target: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * PIECE + 5, hard))
    try:
        with pytest.raises(ResourceError, match="no space"):
            fetched(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = durable_bytes(target)
    assert kept > 16 * PIECE
    assert fetched(target).received == SIZE - kept
    assert target.read_bytes() == data


def test_progress_never_goes_back(server: Hub, target: Path) -> None:
    stopped(target, looked_up()[1], b"?" * SIZE, 12)
    server.faults["GET", NAME] = [Fault(flip=True)]
    shown: list[int] = []
    meter = Meter()
    meter.begin(durable_bytes(target), shown.append)
    download(*looked_up(), target, meter)
    assert shown == sorted(shown)
    assert shown[-1] == SIZE
