from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cpu_runtime.text.chat import Chat
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tokenizer import Tokenizer
from quant.errors import CheckpointError, UnsupportedError, UsageError
from tests.checkpoints import change_json, copy_of_demo
from tests.conftest import DEMO
from tests.cpu_runtime.text.families import SYNTAXES


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat.load(DEMO, Tokenizer.load(DEMO), SYNTAXES["qwen3_5_moe"])


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_prompt_ends_where_the_model_answers(chat: Chat) -> None:
    prompt = chat.prompt([user("hi")])
    assert prompt.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert prompt.in_reasoning
    quiet = chat.prompt([user("hi")], thinking=False)
    assert quiet.text.endswith("<think>\n\n</think>\n\n")
    assert not quiet.in_reasoning


def test_the_stable_part_begins_the_next_prompt(chat: Chat) -> None:
    first = chat.prompt([user("hi")])
    second = chat.prompt([user("hi"), {"role": "assistant", "content": "Hello!"}, user("and?")])
    assert 0 < first.stable < len(first.ids)
    assert second.ids[: first.stable] == first.ids[: first.stable]


def test_content_in_parts(chat: Chat) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert chat.prompt([user(parts)]).text == chat.prompt([user("hi")]).text


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "wizard", "content": "x"}],
        ["hi"],
        [user(3)],
        [user([{"type": "image_url"}])],
        [user("a"), {"role": "system", "content": "late"}],
    ],
    ids=str,
)
def test_messages_that_can_not_be(chat: Chat, messages: list[Any]) -> None:
    with pytest.raises(UsageError):
        chat.prompt(messages)


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja"])
def test_what_is_missing_is_named(tmp_path: Path, file: str) -> None:
    folder = copy_of_demo(tmp_path / "m")
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=file.split(".")[0].replace("_", ".")):
        Chat.load(folder, Tokenizer.load(folder), ChatSyntax())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\x00"])
def test_a_tokenizer_that_is_none(tmp_path: Path, text: str) -> None:
    folder = copy_of_demo(tmp_path / "m")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError):
        Tokenizer.load(folder)


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "m")
    change_json(
        folder / "tokenizer.json",
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    )
    with pytest.raises(UnsupportedError):
        Tokenizer.load(folder)


def test_the_template_is_found_in_older_places(tmp_path: Path) -> None:
    folder = copy_of_demo(tmp_path / "m")
    source = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.load(folder)
    for value in (source, [{"name": "tool_use", "template": "no"}, {"name": "default", "template": source}]):
        change_json(folder / "tokenizer_config.json", chat_template=value)
        assert Chat.load(folder, tokenizer, ChatSyntax()).prompt([user("hi")]).in_reasoning
