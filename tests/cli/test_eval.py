"""`moe eval ppl` and `moe eval kl`: the numbers they print, and the requests they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import copy_of
from tests.command import check_error, moe
from tests.conftest import DEMO, FIXTURES, Quantized

TINY = FIXTURES / "qwen3_5_per_expert"
TEXT = "\n".join(f"What is {n} + {m}? {n} + {m} = {n + m}." for n in range(4, 12) for m in range(3, 9))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def test_perplexity(quantized: Quantized, text: Path, home: Path) -> None:
    result = moe("eval", "ppl", quantized(DEMO, "bf16"), "--text", text, "--ctx", "64", "--json", home=home)
    found = json.loads(result.stdout)
    assert found["window"] == 64
    assert found["windows"] == found["text_tokens"] // 64
    assert found["scored_tokens"] == 31 * found["windows"]
    assert 1 < found["perplexity"]["value"] < 2000
    assert 0 < found["perplexity"]["error"] < found["perplexity"]["value"]
    assert "100% of" in result.stderr
    assert "left, perplexity " in result.stderr


def test_divergence(quantized: Quantized, text: Path, home: Path) -> None:
    models = {recipe: quantized(DEMO, recipe) for recipe in ("int4", "int8", "bf16")}
    found = {}
    for recipe, model in models.items():
        arguments = ["--base", models["bf16"], "--text", text, "--ctx", "64", "--windows", "6", "--json"]
        found[recipe] = json.loads(moe("eval", "kl", model, *arguments, home=home).stdout)
        assert (found[recipe]["windows"], found[recipe]["scored_tokens"]) == (6, 186)
    values = {
        name: [found[recipe][name]["value"] for recipe in models]
        for name in ("kl_mean", "kl_median", "kl_p99", "same_top1", "perplexity_ratio")
    }
    for name in ("kl_mean", "kl_median", "kl_p99"):
        assert values[name][0] > values[name][1] > values[name][2] == 0, "int4 is further off than int8"
    assert values["same_top1"][0] <= values["same_top1"][1] <= values["same_top1"][2] == 1
    assert values["perplexity_ratio"][2] == 1
    four = found["int4"]
    ratio = four["perplexity"]["value"] / four["base_perplexity"]["value"]
    assert math.isclose(four["perplexity_ratio"]["value"], ratio, rel_tol=1e-9)
    table = moe("eval", "kl", models["int4"], *arguments[:-1], home=home)
    assert "KL divergence, 99th percentile" in table.stdout
    assert "186 tokens scored in 6 windows of 64" in table.stderr


def test_ids_in_place_of_text(quantized: Quantized, tmp_path: Path, home: Path) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(np.random.default_rng(0).integers(0, 120, 50).tolist()))
    arguments = ["--tokens", ids, "--ctx", "20", "--json"]
    found = json.loads(
        moe("eval", "kl", quantized(TINY, "int4"), "--base", quantized(TINY, "bf16"), *arguments, home=home).stdout
    )
    assert (found["windows"], found["scored_tokens"]) == (2, 18)
    assert found["kl_mean"]["value"] > 0


def test_tokenizers_that_differ(quantized: Quantized, tmp_path: Path, text: Path, home: Path) -> None:
    other = copy_of(quantized(DEMO, "int8"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["q"], vocab["z"] = vocab["z"], vocab["q"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = moe("eval", "kl", quantized(DEMO, "int4"), "--base", other, "--text", text, home=home)
    check_error(result, 2, "tokenizers differ", "'q'", "'z'", "same source")
    tokenizer["model"]["merges"].clear()
    vocab["q"], vocab["z"] = vocab["z"], vocab["q"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    result = moe("eval", "kl", quantized(DEMO, "int4"), "--base", other, "--text", text, home=home)
    check_error(result, 2, "cut the text into tokens differently")


def test_requests_that_can_not_be(quantized: Quantized, tmp_path: Path, text: Path, home: Path) -> None:
    model, other = quantized(DEMO, "int4"), tmp_path / "other.txt"
    cases: list[tuple[list[str | Path], bytes, str]] = [
        (["--text", other], b"", "no text"),
        (["--text", other], b"\xff\xfe", "UTF-8"),
        (["--text", tmp_path / "none"], b"", "No such file"),
        (["--text", other], b"short", "less than one window"),
        (["--text", text, "--ctx", "9"], b"", "at least 16"),
        (["--text", text, "--ctx", "1000000"], b"", "--ctx 1000000"),
        (["--text", text, "--windows", "0"], b"", "--windows"),
        (["--text", text, "--tokens", other], b"", "either"),
        ([], b"", "either"),
    ]
    for arguments, content, words in cases:
        other.write_bytes(content)
        check_error(moe("eval", "ppl", model, *arguments, home=home), 2, words)
    check_error(moe("eval", "kl", model, "--base", "nowhere", "--text", text, home=home), 3, "nowhere")
