"""The chat: its commands and what they change, on the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import sessions, slash
from cli.answer import show
from cli.conversation import Conversation
from cli.repl import Repl
from cpu_runtime import Done, Engine, Piece, SamplingParams, ToolCall
from cpu_runtime.events import Timings, Usage
from cpu_runtime.text.chat import Chat
from cpu_runtime.text.template import ChatTemplate
from quant.errors import ModelNotFound, MoeError, UsageError
from tests.conftest import DEMO, FIXTURES, Quantized


@pytest.fixture(scope="module")
def engine(quantized: Quantized) -> Iterator[Engine]:
    with Engine.open(quantized(DEMO, "int4")) as opened:
        yield opened


@pytest.fixture
def repl(engine: Engine, home: Path) -> Repl:
    params = SamplingParams(temperature=0, max_tokens=150)
    return Repl(Conversation(engine, params, system=None, thinking=False), "test")


def roles(repl: Repl) -> list[str]:
    return [message["role"] for message in repl.conversation.messages]


def test_a_conversation_is_kept_and_saved(repl: Repl, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repl.take("My name is Anna.")
    repl.take("What is my name?")
    assert "Anna" in capsys.readouterr().out
    assert roles(repl) == ["user", "assistant"] * 2
    saved = json.loads((home / "sessions" / "test.json").read_text())
    assert saved["messages"] == repl.conversation.messages
    assert (home / "sessions" / "test.json").stat().st_mode & 0o777 == 0o600


def test_undo_regen_and_clear(repl: Repl) -> None:
    repl.take("What is 2 + 3?")
    first = repl.conversation.messages[-1]
    repl.take("/regen")
    assert repl.conversation.messages[-1] == first
    repl.take("Who are you?")
    repl.take("/undo")
    assert len(repl.conversation.messages) == 2
    repl.take("/undo")
    repl.take("/undo")
    assert repl.conversation.messages == []
    with pytest.raises(UsageError):
        repl.take("/regen")
    repl.take("/system Be brief.")
    repl.take("Who are you?")
    assert roles(repl) == ["system", "user", "assistant"]
    repl.take("/clear")
    assert roles(repl) == ["system"]
    repl.take("/system none")
    assert roles(repl) == []


def test_settings(repl: Repl) -> None:
    repl.take("/set temp 0.5")
    repl.take("/set top-k 7")
    repl.take("/set think on")
    repl.take("/set seed 3")
    assert (repl.conversation.params.temperature, repl.conversation.params.top_k) == (0.5, 7)
    assert repl.conversation.thinking is True
    for wrong in (
        "/set",
        "/set temperature",
        "/set temperature hot",
        "/set nonsense 3",
        "/set think maybe",
        "/nonsense",
    ):
        with pytest.raises(UsageError):
            repl.take(wrong)
    with pytest.raises(UsageError):
        repl.take("/set top_p 7")
    assert repl.conversation.params.temperature == 0.5


def test_save_and_load(repl: Repl, capsys: pytest.CaptureFixture[str]) -> None:
    repl.take("My name is Tom.")
    repl.take("/save tom")
    repl.take("/clear")
    repl.take("/load tom")
    repl.take("What is my name?")
    assert "Tom" in capsys.readouterr().out
    with pytest.raises(ModelNotFound, match="nobody"):
        repl.take("/load nobody")
    for name in ("../outside", "a/b", ".hidden", "x" * 200):
        with pytest.raises(UsageError):
            repl.take(f"/save {name}")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"messages": 3}', '{"messages": [{"role": 1}]}', "\x00"])
def test_a_session_file_is_not_trusted(repl: Repl, home: Path, text: str) -> None:
    sessions.save("bad", "m", [])
    (home / "sessions" / "bad.json").write_text(text)
    with pytest.raises(MoeError):
        repl.take("/load bad")


def test_every_command_is_in_the_help(repl: Repl, capsys: pytest.CaptureFixture[str]) -> None:
    repl.take("/help")
    shown = capsys.readouterr().err
    expected = "/help /bye /clear /system /set /show /undo /regen /save /load /stats"
    assert all(name in shown for name in expected.split())
    repl.take("/show")
    repl.take("/stats")
    assert "temperature" in capsys.readouterr().err
    for leave in ("/bye", "/exit"):
        with pytest.raises(slash.Leave):
            repl.take(leave)


def test_an_answer_that_calls_tools(engine: Engine, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Done("tool_calls", [1], Usage(1, 0, 1, 0), Timings(1, 1, 1, 1), 0)
    calls = [ToolCall("a", "weather", {"city": "Zürich"}), ToolCall("b", "now", {})]
    pieces = [Piece("Hm.", "reasoning", 1), Piece("Let me look.", "content", 1)]
    answer = show(event for event in [*pieces, *calls, done])
    assert capsys.readouterr().out == (
        'Hm.\n\nLet me look.\ntool call: weather {"city": "Zürich"}\ntool call: now {}\n'
    )
    assert show((event for event in [calls[1], done]), thinking=False).text == ""
    assert capsys.readouterr().out == "tool call: now {}\n"
    assert answer.to_json()["tool_calls"] == [
        {"id": "a", "name": "weather", "arguments": {"city": "Zürich"}},
        {"id": "b", "name": "now", "arguments": {}},
    ]

    conversation = Conversation(engine, SamplingParams(), system=None, thinking=None)
    conversation.messages.append({"role": "user", "content": "Weather?"})
    conversation.keep(answer)
    conversation.messages.append({"role": "tool", "tool_call_id": "a", "content": "snow"})
    sessions.save("calls", "m", conversation.messages)
    template = ChatTemplate((FIXTURES / "templates" / "qwen3_5_moe.jinja").read_text(), "t")
    text = Chat(template, engine.tokenizer, engine.syntax).prompt(sessions.load("calls")).text
    assert "<think>\nHm.\n</think>\n\nLet me look.\n\n<tool_call>\n<function=weather>" in text


def test_control_codes_do_not_reach_a_terminal() -> None:
    from cli.output import clean

    assert clean("a\x1b[2Jb\x07\r\x9bc\td\ne\u202ef") == "a[2Jbc\td\nef"
