"""Kill -9 at any moment of a pull, a streamed pull or a conversion: the next runs end in the same bytes."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import digests, resharded
from tests.command import check_error, moe
from tests.conftest import FIXTURES
from tests.hub_server import Hub, serving
from tests.kills import CHECKPOINT, at_byte, at_call, finished, kill_after, start

REPO, SHARDS = "tiny/DeepSeek", 5
COMMANDS = {
    "pull": ("pull", REPO),
    "stream": ("pull", REPO, "--quantize", "int4"),
    "quantize": ("quantize", REPO),
}
LEAST = {"sync": 30, "name": 15}  # such calls of a run
HEADERS = SHARDS * (1 << 16)  # bytes read ahead by a run, at most
IN_FLIGHT = 1 << 18  # bytes that the server has sent and a killed process had not written, at most


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resharded(FIXTURES / "deepseek_v3_fp8", tmp_path_factory.mktemp("source") / "source", SHARDS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, source: Path) -> dict[str, dict[str, str]]:
    """What each command makes when nobody disturbs it."""
    home = tmp_path_factory.mktemp("whole")
    with serving({REPO: source}) as hub:
        pulled = moe("pull", REPO, home=home, HF_ENDPOINT=hub.url)
        made = moe("quantize", REPO, home=home)
    model = digests(Path(made.stdout.strip()))
    return {"pull": digests(Path(pulled.stdout.strip())), "stream": model, "quantize": model}


@pytest.fixture
def hub(source: Path) -> Iterator[Hub]:
    with serving({REPO: source}) as server:
        yield server


def result(command: str, home: Path) -> Path:
    if command == "pull":
        return next((home / "hf" / "hub").glob("models--*/snapshots/*"))
    return home / "models" / "deepseek-int4"


def check(command: str, home: Path, whole: dict[str, dict[str, str]]) -> None:
    """It is complete, the same, and nothing else is left."""
    assert digests(result(command, home)) == whole[command]
    left = [path.name for path in home.rglob("*") if path.name.endswith((".part", ".journal", ".tmp", ".partial"))]
    assert not left


@pytest.mark.parametrize(
    ("command", "kind", "n"),
    [
        *[("pull", "sync", n) for n in (12, 23)],
        *[("pull", "name", n) for n in (3, 8)],
        *[("stream", "sync", n) for n in (14, 31, 40)],
    ],
)
def test_a_kill_at_a_call(
    command: str, kind: str, n: int, hub: Hub, home: Path, whole: dict[str, dict[str, str]]
) -> None:
    done, _ = finished(start(*COMMANDS[command], home=home, hub=hub, before=at_call(kind, n)))
    assert not done
    done, stderr = finished(start(*COMMANDS[command], home=home, hub=hub))
    assert done, stderr
    check(command, home, whole)


@pytest.mark.parametrize("command", ["pull", "stream"])
def test_a_kill_at_a_byte(command: str, hub: Hub, home: Path, source: Path, whole: dict[str, dict[str, str]]) -> None:
    """What is fetched again is what was not durable, and is said."""
    hub.rate = 2e6
    process = start(*COMMANDS[command], home=home, hub=hub)
    at_byte(hub, HEADERS + 300_000, process.kill)
    assert not finished(process)[0]
    done, stderr = finished(start(*COMMANDS[command], home=home, hub=hub))
    assert done, stderr
    assert "of it a second time" in stderr
    check(command, home, whole)
    assert twice(hub, source) <= 2 * HEADERS + CHECKPOINT + IN_FLIGHT


def test_an_interrupt_is_obeyed_at_once_and_loses_nothing(hub: Hub, home: Path, source: Path) -> None:
    hub.rate = 2e6
    process = start(*COMMANDS["pull"], home=home, hub=hub)
    at_byte(hub, HEADERS + 250_000, lambda: process.send_signal(signal.SIGINT))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    hub.on_sent = lambda sent: None
    done, stderr = finished(start(*COMMANDS["pull"], home=home, hub=hub))
    assert done, stderr
    assert twice(hub, source) <= 2 * HEADERS + IN_FLIGHT


def twice(hub: Hub, source: Path) -> int:
    """Bytes that were sent more than once."""
    return sum(max(0, sent - (source / name).stat().st_size) for name, sent in hub.sent.items())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pull", "stream"])
@pytest.mark.parametrize(("kind", "group", "groups"), [("name", 0, 1), *[("sync", group, 3) for group in range(3)]])
def test_a_kill_at_every_call(
    command: str, kind: str, group: int, groups: int, hub: Hub, tmp_path: Path, whole: dict[str, dict[str, str]]
) -> None:
    """Every one of a group, until a run has fewer calls than that."""
    for n in range(1 + group, 1000, groups):
        home = tmp_path / str(n)
        through, _ = finished(start(*COMMANDS[command], home=home, hub=hub, before=at_call(kind, n)))
        if not through:
            done, stderr = finished(start(*COMMANDS[command], home=home, hub=hub))
            assert done, stderr
        check(command, home, whole)
        if through:
            assert n > LEAST[kind]
            return
    raise AssertionError("a run has fewer calls than that")


@pytest.mark.slow
@pytest.mark.parametrize("group", range(5))
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_hundred_kills(
    command: str, group: int, hub: Hub, tmp_path: Path, source: Path, whole: dict[str, dict[str, str]]
) -> None:
    """Seven kills in each of fifteen groups, at random bytes and moments; a run that gets through starts anew."""
    chance = random.Random(f"{command} {group}")
    hub.rate = 1e6
    kills = runs = attempt = 0
    home = tmp_path / "0"
    lasts = 2.0
    while True:
        if command == "quantize" and not (home / "sources").exists():
            assert moe("pull", REPO, home=home, HF_ENDPOINT=hub.url).returncode == 0
        hub.on_sent = lambda sent: None
        process, begun, timer = start(*COMMANDS[command], home=home, hub=hub), time.monotonic(), None
        runs += 1
        if kills < 7 and command != "quantize" and chance.random() < 0.6:
            at_byte(hub, chance.randrange(HEADERS + 600_000), process.kill)
        elif kills < 7:
            timer = kill_after(process, chance.uniform(0.1, lasts))
        done, stderr = finished(process)
        if timer:
            timer.cancel()
        if not done:
            kills += 1
            if command != "quantize" or not result(command, home).exists():
                continue
            # Killed when the model had its name: the same command says so, and tidies up.
            check_error(moe(*COMMANDS[command], home=home), 2, "already exists")
        lasts = max(lasts, time.monotonic() - begun)
        check(command, home, whole)
        if kills >= 7:
            break
        attempt += 1
        home = tmp_path / str(attempt)
    again = twice(hub, source) - attempt * sum((source / name).stat().st_size for name in hub.sent)
    print(f"{command}: {kills} kills, {runs} runs, {again} bytes twice, {runs * HEADERS} of them headers at most")
    if command != "quantize":
        assert again <= runs * HEADERS + kills * (CHECKPOINT + IN_FLIGHT)
