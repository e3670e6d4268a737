"""Which tokens end a turn: what any file of the model says, and what its family knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tokenizer import IdsOnly, Tokenizer
from tests.checkpoints import copy_of_demo
from tests.cpu_runtime.text.families import SYNTAXES

STOPS = {
    "qwen3_5_moe": ["<|im_end|>", "<|endoftext|>"],
    "glm_moe_dsa": ["<|endoftext|>", "<|user|>", "<|observation|>"],
    "kimi_k25": ["<|im_end|>"],
    "minimax_m2": ["[e~["],
    "deepseek_v3": ["<｜end▁of▁sentence｜>"],
}
FILES = ("generation_config.json", "config.json", "tokenizer_config.json")


def model(folder: Path, special: list[str], **files: dict[str, Any]) -> Path:
    """A folder with the demo's tokenizer, these control tokens from id 2000 on, and these files alone."""
    copy_of_demo(folder)
    definition = json.loads((folder / "tokenizer.json").read_text())
    last = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    known = {token["content"] for token in definition["added_tokens"]}
    fillers = [f"<filler {n}>" for n in range(1807, 2000)]
    names = [*fillers, *(name for name in special if name not in known)]
    definition["added_tokens"] += [{"id": 1807 + n, "content": name} | last for n, name in enumerate(names)]
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    for file in FILES:
        (folder / file).unlink()
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def ids_of(tokenizer: Tokenizer, names: list[str]) -> set[int]:
    encoded = [tokenizer.encode(name) for name in names]
    assert all(len(ids) == 1 for ids in encoded)
    return {ids[0] for ids in encoded}


@pytest.mark.parametrize("family", sorted(STOPS))
def test_a_family_knows_its_own(tmp_path: Path, family: str) -> None:
    tokenizer = Tokenizer.load(model(tmp_path / "m", STOPS[family]), SYNTAXES[family])
    assert tokenizer.stop_ids == ids_of(tokenizer, STOPS[family])
    assert tokenizer.decode(sorted(tokenizer.stop_ids)) == ""


def test_every_file_counts(tmp_path: Path) -> None:
    folder = model(
        tmp_path / "m",
        ["[EOS]", "[e~["],
        generation_config={"eos_token_id": [5, 6]},
        config={"eos_token_id": 7, "text_config": {"eos_token_id": 8}},
        tokenizer_config={"eos_token": {"content": "[EOS]"}},
    )
    tokenizer = Tokenizer.load(folder, SYNTAXES["minimax_m2"])
    assert tokenizer.stop_ids == {5, 6, 7, 8} | ids_of(tokenizer, ["[EOS]", "[e~["])
    assert IdsOnly(folder).stop_ids == {5, 6, 7, 8}


@pytest.mark.parametrize("value", [None, True, "<|not a token|>", {}, 1.5, [None, [1]]])
def test_values_that_name_no_token(tmp_path: Path, value: Any) -> None:
    folder = model(tmp_path / "m", [], config={"eos_token_id": value}, tokenizer_config={"eos_token": value})
    assert Tokenizer.load(folder, ChatSyntax(stops=("<|nor this|>",))).stop_ids == frozenset()
