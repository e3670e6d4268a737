"""What a pull says it needs: time from a sample of the link, and disk with or without half of the next shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.hub_cache import SPARE
from cli.pull_plan import duration
from tests.checkpoints import resharded
from tests.command import check_error, moe
from tests.conftest import FIXTURES
from tests.hub_server import Hub, serving

REPO = "tiny/Qwen3.5"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving({REPO: resharded(FIXTURES / "qwen3_5_fused", tmp_path / "source", 4)}) as server:
        yield server


def plan(hub: Hub, home: Path, *options: str, before: str = "") -> dict[str, Any]:
    done = moe("pull", REPO, "--dry-run", "--json", *options, home=home, before=before, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["plan"]
    return found


@pytest.mark.parametrize("options", [(), ("--quantize", "int4")])
def test_time_from_a_sample(hub: Hub, home: Path, options: tuple[str, ...]) -> None:
    assert plan(hub, home, *options)["seconds"] is None, "too little to tell"
    hub.rate = 1e6
    found = plan(hub, home, *options, before="import cli.link_rate\ncli.link_rate._WORTH = 1")
    assert 0 < found["rate"] < 3e6
    assert found["seconds"] >= found["fetch"] / found["rate"]


def test_where_disk_is_short_nothing_is_fetched_ahead(hub: Hub, home: Path) -> None:
    needed = plan(hub, home, "--quantize", "int4")["disk"]

    def with_free(free: int) -> str:
        return f"import shutil, types\nshutil.disk_usage = lambda path: types.SimpleNamespace(free={SPARE + free})"

    assert plan(hub, home, "--quantize", "int4", before=with_free(needed))["disk"] == needed
    less = plan(hub, home, "--quantize", "int4", before=with_free(needed - 1))["disk"]
    assert less < needed
    short = with_free(less - 1)
    done = moe("pull", REPO, "--quantize", "int4", "--dry-run", home=home, before=short, HF_ENDPOINT=hub.url)
    check_error(done, 5, "needed", "--out")


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 5399, 5400, 86400)] == [
        "0 s",
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "24.0 h",
    ]
