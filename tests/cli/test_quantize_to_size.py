"""`moe quantize` and `moe pull` to a size, with a recipe that is solved for it."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.checkpoints import digests, resharded
from tests.command import check_error, moe
from tests.conftest import DEMO, FIXTURES
from tests.hub_server import Fault, serving

TINY = FIXTURES / "minimax_m2_bf16"
STOP = """
import os
from quant.journal import Journal
add = Journal.add
def stopping(self, entry):
    add(self, entry)
    os._exit(9)
Journal.add = stopping
"""
NO_MEASURING = """
from quant.matrix_errors import MeasuredErrors
def never(*arguments):
    raise AssertionError("measured again")
MeasuredErrors.__call__ = never
"""


def made(home: Path, name: str) -> tuple[dict[str, object], dict[str, object]]:
    """A model's manifest and report."""
    folder = home / "models" / name
    return json.loads((folder / "manifest.json").read_text()), json.loads((folder / "report.json").read_text())


def test_bits_a_weight(home: Path) -> None:
    result = moe("quantize", DEMO, "--bpw", "6.5", "--json", home=home)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    manifest, report = made(home, "demo-6.5bpw")
    assert manifest["recipe"] == report["recipe"] == facts["recipe"]
    assert facts["recipe"]["name"] == "6.5bpw"
    assert 6.3 < facts["report"]["total"]["bits_per_weight"] <= 6.5
    assert any(key.startswith("layers.") for key in facts["recipe"]["formats"])
    answer = moe("run", "demo-6.5bpw", "What is 17 + 25?", "--temp", "0", home=home)
    assert "42" in answer.stdout, answer.stderr


def test_what_is_printed_is_a_recipe(home: Path, tmp_path: Path) -> None:
    facts = json.loads(moe("quantize", DEMO, "--bpw", "6.5", "--json", home=home).stdout)
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[formats]\n" + "".join(f'"{k}" = "{v}"\n' for k, v in facts["recipe"]["formats"].items()))
    assert moe("quantize", DEMO, "--recipe", recipe, home=home).returncode == 0
    weights = ["dense.safetensors", "experts-000.safetensors", "experts-007.safetensors"]
    first, second = (digests(home / "models" / name) for name in ("demo-6.5bpw", "demo-mine"))
    assert all(first[name] == second[name] for name in weights)


def test_a_stopped_run_goes_on_with_its_own_recipe(home: Path) -> None:
    assert moe("quantize", TINY, "--size", "300k", "--out", "whole", home=home).returncode == 0
    assert moe("quantize", TINY, "--size", "300k", home=home, before=STOP).returncode == 9
    [listed] = [m for m in json.loads(moe("list", "--json", home=home).stdout)["models"] if not m["complete"]]
    assert listed["resume"] == f"moe quantize {TINY} --size 300k"
    result = moe("quantize", TINY, "--size", "300k", home=home, before=NO_MEASURING)
    assert result.returncode == 0, result.stderr
    assert digests(home / "models" / f"{TINY.name}-300k") == digests(home / "models" / "whole")


def test_another_source_is_measured_anew(home: Path) -> None:
    assert moe("quantize", TINY, "--size", "500k", "--out", "m", home=home, before=STOP).returncode == 9
    other = FIXTURES / "minimax_m2_fp8"
    measured = moe("quantize", other, "--size", "500k", "--out", "m", home=home, before=NO_MEASURING)
    check_error(measured, 1, "measured again")


def test_pulled_to_a_size(home: Path, tmp_path: Path) -> None:
    source = resharded(FIXTURES / "deepseek_v3_fp8", tmp_path / "source", 4)
    with serving({"tiny/DeepSeek": source}) as hub:

        def pull(*options: str) -> str:
            result = moe("pull", "tiny/DeepSeek", *options, home=home, HF_ENDPOINT=hub.url)
            assert result.returncode == 0, result.stderr
            return result.stderr

        pull("--bpw", "10")
        assert "here already" in pull("--bpw", "10")
    manifest, report = made(home, "deepseek-10bpw")
    assert manifest["recipe"]["name"] == "10bpw"  # type: ignore[index]
    assert 9 < report["total"]["bits_per_weight"] <= 10  # type: ignore[index]


def test_a_stopped_pull_goes_on_with_its_own_recipe(home: Path, tmp_path: Path) -> None:
    source = resharded(FIXTURES / "deepseek_v3_fp8", tmp_path / "source", 4)
    last = sorted(path.name for path in source.glob("*.safetensors"))[3]
    with serving({"tiny/DeepSeek": source}) as hub:

        def pull(out: str, before: str = "") -> CompletedProcess[str]:
            options = ("--size", "700k", "--out", out)
            return moe("pull", "tiny/DeepSeek", *options, home=home, before=before, HF_ENDPOINT=hub.url)

        assert pull("whole").returncode == 0
        hub.faults["GET", last] = [Fault(), 403]
        check_error(pull("stopped"), 4, "tiny/DeepSeek")
        hub.faults.clear()
        result = pull("stopped", "from quant import matrix_errors\nmatrix_errors.GAUSSIAN.update(q6=1.0)")
    assert result.returncode == 0, result.stderr
    assert "1 of 4 weight files" in result.stderr
    assert digests(home / "models" / "stopped") == digests(home / "models" / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bpw", "3"], ["3 bits a weight can't be had", "at least", "calibration"]),
        (["--bpw", "0"], ["--bpw 0", "4.25"]),
        (["--bpw", "nan"], ["--bpw nan"]),
        (["--size", "1k"], ["can't be had", "at least"]),
        (["--size", "large"], ["--size large"]),
        (["--size", "300k", "--bpw", "8"], ["one of --recipe, --bpw and --size"]),
        (["--recipe", "int4", "--bpw", "8"], ["one of --recipe, --bpw and --size"]),
    ],
)
def test_what_can_not_be(options: list[str], words: list[str], home: Path) -> None:
    check_error(moe("quantize", TINY, *options, home=home), 2, *words)
    assert not list((home / "models").glob("*"))
