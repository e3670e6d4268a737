"""The whole way: pull from a hub, quantize, list, show, run, chat, measure, delete."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.command import started
from tests.conftest import DEMO
from tests.hub_server import COMMIT, serving


def test_from_a_repository_to_an_answer_and_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving({"moe/Demo-7M": DEMO}) as hub:
        pulled = started("pull", "moe/Demo-7M", home=home, HF_ENDPOINT=hub.url)
    assert pulled.returncode == 0, pulled.stderr

    preview = started("quantize", "moe/Demo-7M", "--dry-run", "--json", home=home)
    predicted = json.loads(preview.stdout)
    assert not predicted["made"]
    made = started("quantize", "moe/Demo-7M", home=home)
    assert made.returncode == 0, made.stderr
    folder = Path(made.stdout.strip())
    assert folder == home / "models" / "demo-7m-int4"
    assert "expert" in made.stderr

    listed = json.loads(started("list", "--json", home=home).stdout)
    assert [(m["name"], m["recipe"], m["complete"]) for m in listed["models"]] == [("demo-7m-int4", "int4", True)]
    assert listed["sources"][0]["revision"] == COMMIT
    assert abs(listed["models"][0]["bytes"] - predicted["output_bytes"]) < 300_000
    assert "demo-7m-int4" in started("list", home=home).stdout

    shown = started("show", "demo-7m", "--json", "--verify", home=home)
    assert json.loads(shown.stdout)["source"] == f"moe/Demo-7M@{COMMIT}"

    asked = started("run", "demo-7m-int4", "What is 4 + 5?", "--temp", "0", "--json", home=home)
    answer = json.loads(asked.stdout)
    assert answer["text"] == "4 + 5 = 9."
    assert answer["reasoning"]
    assert answer["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(answer["token_ids"])
    assert answer["timings"]["decode_tps"] > 0

    plain = started("run", "demo-7m-int4", "--temp", "0", home=home, stdin="What is 4 + 5?\n")
    assert plain.stdout == "4 + 5 = 9.\n"
    thought = started("run", "demo-7m-int4", "What is 4 + 5?", "--temp", "0", "--thinking", home=home)
    assert thought.stdout.startswith(answer["reasoning"])
    chatted = started("chat", home=home, stdin="What is 4 + 5?")
    assert chatted.returncode == 0, chatted.stderr
    assert "[ prompt" in chatted.stderr

    tokens = tmp_path / "ids.json"
    tokens.write_text(json.dumps([5, 6, 7, 8]))
    measured = started("eval", "logits", "demo-7m-int4", "--tokens", tokens, "--out", tmp_path / "l.npy", home=home)
    assert measured.returncode == 0, measured.stderr
    logits = np.load(tmp_path / "l.npy")
    assert (logits.dtype, logits.shape[0]) == (np.float32, 4)
    went_on = started("run", str(folder), "--tokens", tokens, "--temp", "0", "--max-tokens", "1", "--json", home=home)
    assert json.loads(went_on.stdout)["token_ids"] == [int(logits[-1].argmax())]

    assert started("rm", "demo-7m-int4", "moe/Demo-7M", home=home).returncode == 0
    assert json.loads(started("list", "--json", home=home).stdout) == {"models": [], "sources": []}
    assert not list((home / "hf").rglob("*.safetensors"))


def test_the_demo(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = started("demo", "What is 12 + 30?", "--temp", "0", home=home)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "12 + 30 = 42.\n"
    assert "quantized the demo model" in first.stderr
    second = started("demo", home=home)
    assert "demo model of moe" in second.stdout
    assert "quantized the demo model" not in second.stderr
