"""`moe show` and `moe list`: what a model is made of, what is damaged, what is not whole and how to go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path

import pytest

from cli import store
from quant.building import partial_folder
from quant.checkpoint import INDEX
from tests.checkpoints import change_json, copy_of, digests
from tests.command import check_error, environment, moe, python
from tests.conftest import DEMO, FIXTURES, ROOT, Quantized

FUSED = FIXTURES / "qwen3_5_fused"


def test_what_a_model_is_made_of(quantized: Quantized, home: Path) -> None:
    model = quantized(DEMO, "int4")
    found = json.loads(moe("show", model, "--json", home=home).stdout)
    manifest = json.loads((model / "manifest.json").read_text())
    assert (found["source"], found["revision"], found["recipe"]) == (DEMO.name, "", "int4")
    assert found["files"] == {name: entry["sha256"] for name, entry in manifest["files"].items()}
    assert found["manifest_sha256"] == manifest["sha256"]
    assert found["roles"]["expert"]["formats"] == ["q4"]
    assert found["roles"]["attention"]["bits"] == 8.5
    assert found["report"] == json.loads((model / "report.json").read_text())
    table = moe("show", model, home=home)
    for words in ("attention", "head", "shared", "total", "dB", "manifest sha256"):
        assert words in table.stdout
    assert "furthest from their source: layers." in table.stderr


def test_the_revision_of_a_pulled_source(quantized: Quantized, tmp_path: Path, home: Path) -> None:
    model = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    change_json(model / "manifest.json", source={"name": "org/name@abc", "bytes": 1})
    found = json.loads(moe("show", model, "--json", home=home).stdout)
    assert (found["source"], found["revision"]) == ("org/name@abc", "abc")


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"roles": {"a": {"relative_error": NaN}}, "worst": [], "total": {}}', "{"]
)
def test_a_report_that_is_none(quantized: Quantized, tmp_path: Path, home: Path, text: str) -> None:
    model = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    (model / "report.json").write_text(text)
    check_error(moe("show", model, home=home), 6, "report.json")
    (model / "report.json").unlink()
    assert "ERROR" not in moe("show", model, home=home).stdout


def test_verifying_names_all_that_is_damaged(quantized: Quantized, tmp_path: Path, home: Path) -> None:
    model = copy_of(quantized(FUSED, "int4"), tmp_path / "m")
    sound = moe("show", model, "--verify", "--json", home=home)
    assert json.loads(sound.stdout)["intact"] is True
    for file in ("experts-001.safetensors", "experts-002.safetensors"):
        with (model / file).open("r+b") as opened:
            opened.seek(-5, os.SEEK_END)
            opened.write(b"\x55")
    (model / "config.json").unlink()
    result = moe("show", model, "--verify", home=home)
    check_error(result, 6, "config.json: No such file", "4 more faults", "quantize the model again")
    for layer in (1, 2):
        assert f"experts-00{layer}.safetensors: expert 7 of layer {layer} is damaged" in result.stderr
    assert result.stdout == ""


KILL = """
import os, signal, sys
import cli.sizes
cli.sizes.show_file = lambda file, sums: os.kill(os.getpid(), signal.SIGKILL)
from cli.__main__ import main
main()
"""


def killed(home: Path, *arguments: str | Path, folder: Path = ROOT) -> None:
    """Run `moe quantize` and kill it when its first file is done."""
    done = python(KILL, "quantize", *arguments, environment=environment(home), folder=folder)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_stopped_conversion_is_listed_with_what_goes_on(quantized: Quantized, tmp_path: Path, home: Path) -> None:
    source = copy_of(FUSED, tmp_path / "my models" / FUSED.name)
    killed(home, FUSED.name, "--recipe", "int8", "--out", "mine", folder=source.parent)
    listed = json.loads(moe("list", "--json", home=home).stdout)["models"]
    assert [(model["name"], model["complete"]) for model in listed] == [("mine", False)]
    assert listed[0]["state"].startswith("stopped, ")
    assert 0 < int(listed[0]["state"].split()[1].removesuffix("%")) < 100
    table = moe("list", home=home)
    assert "mine is not whole; to go on: " + listed[0]["resume"] in table.stderr
    check_error(moe("run", "mine", "hi", home=home), 3, "moe list")
    command = shlex.split(listed[0]["resume"])
    assert command == ["moe", "quantize", str(source), "--recipe", "int8", "--out", "mine"]
    kept = (home / "models" / "mine.partial" / "dense.safetensors").stat().st_mtime_ns
    assert moe(*command[1:], home=home).returncode == 0
    out = home / "models" / "mine"
    assert (out / "dense.safetensors").stat().st_mtime_ns == kept
    assert digests(out) == digests(quantized(FUSED, "int8"))
    assert json.loads(moe("list", "--json", home=home).stdout)["models"][0]["complete"] is True


def test_a_conversion_at_work_is_listed_as_such(home: Path) -> None:
    import fcntl

    partial = partial_folder(home / "models" / "m")
    partial.mkdir(parents=True)
    with (partial / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listed = json.loads(moe("list", "--json", home=home).stdout)["models"][0]
    assert (listed["state"], listed["resume"]) == ("being made now", "")
    listed = json.loads(moe("list", "--json", home=home).stdout)["models"][0]
    assert (listed["state"], listed["resume"]) == ("stopped", "the command that began it")
    (partial / "journal.jsonl").write_text('[1]\n"x"\n{"bytes": []}\n{')
    assert moe("list", home=home).returncode == 0


def test_a_checkpoint_that_is_here_in_part(tmp_path: Path, home: Path) -> None:
    source = copy_of(FUSED, tmp_path / "source")
    store.remember_source("org/name", "abc", source)
    assert json.loads(moe("list", "--json", home=home).stdout)["sources"][0]["complete"] is True
    next(source.glob("*.safetensors")).unlink()
    listed = moe("list", home=home)
    assert "source, 1 files missing" in listed.stdout
    assert "org/name is not whole; to go on: moe pull org/name@abc" in listed.stderr
    check_error(moe("quantize", "org/name", home=home), 3, "in part", "moe pull org/name")
    (source / INDEX).write_text("{")
    assert moe("list", home=home).returncode == 0
