"""Tool calls in what a model writes: each syntax, cut in every way, sound and not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cpu_runtime.events import ToolCall
from cpu_runtime.text.channels import ChannelSplitter
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tools.values import typed
from tests.cpu_runtime.text.families import CALLS, SYNTAXES, WEATHER, WRITTEN

EACH = pytest.mark.parametrize("family", WRITTEN)
Found = tuple[str, str, list[tuple[str, dict[str, Any]]]]


def split(syntax: ChatSyntax, pieces: list[str], in_reasoning: bool = False) -> Found:
    """(reasoning, content, calls) of a stream."""
    splitter = ChannelSplitter(in_reasoning, syntax, [WEATHER])
    parts = [part for piece in pieces for part in splitter.feed(piece)] + splitter.finish()
    text = {"reasoning": "", "content": ""}
    calls = []
    for part in parts:
        if isinstance(part, ToolCall):
            calls.append((part.name, part.arguments))
        else:
            text[part[0]] += part[1]
    return text["reasoning"], text["content"], calls


def cut(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted({c % (len(text) + 1) for c in cuts}), len(text)]
    return [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


@EACH
@pytest.mark.parametrize("in_reasoning", [True, False])
def test_calls_one_character_at_a_time(family: str, in_reasoning: bool) -> None:
    before = "I wonder.\n</think>\n\n" if in_reasoning else ""
    text = f"{before}Let me see.\n\n{WRITTEN[family]}\n"
    expected = ("I wonder." if in_reasoning else "", "Let me see.", CALLS)
    assert split(SYNTAXES[family], [text], in_reasoning) == expected
    assert split(SYNTAXES[family], list(text), in_reasoning) == expected


@EACH
def test_only_calls(family: str) -> None:
    assert split(SYNTAXES[family], list("\n\n" + WRITTEN[family])) == ("", "", CALLS)
    assert split(SYNTAXES[family], list("hm</think>" + WRITTEN[family]), True) == ("hm", "", CALLS)


@EACH
def test_a_call_is_told_as_soon_as_it_is_whole(family: str) -> None:
    splitter = ChannelSplitter(False, SYNTAXES[family])
    parts = splitter.feed(WRITTEN[family])
    assert [part.name for part in parts if isinstance(part, ToolCall)] == ["weather", "now"]
    assert len({part.id for part in parts if isinstance(part, ToolCall)}) == 2


@EACH
def test_an_unfinished_block_is_text(family: str) -> None:
    syntax, text = SYNTAXES[family], "So:\n" + WRITTEN[family]
    assert syntax.tools
    whole = text.index(syntax.tools.close)
    for end in range(whole + len(syntax.tools.close)):
        assert split(syntax, list(text[:end])) == ("", text[:end], []), end


@EACH
def test_a_malformed_block_is_text(family: str) -> None:
    tools = SYNTAXES[family].tools
    assert tools
    for inside in ("", " ", "x y", "{", "<", "<function=a>", '<invoke name="a">', "a<arg_key>b</arg_key>", "[1]"):
        for text in (f"{tools.open}{inside}{tools.close}", f"a \n{tools.open}\n{inside}\n{tools.close} b\n"):
            found = split(SYNTAXES[family], [text])
            assert found == split(SYNTAXES[family], list(text)) == ("", text, []), text


@EACH
def test_a_sound_block_after_a_marker_in_prose(family: str) -> None:
    syntax = SYNTAXES[family]
    assert syntax.tools
    prose = f"I use `{syntax.tools.open}` to call."
    splitter = ChannelSplitter(False, syntax)
    assert "".join(p[1] for p in splitter.feed(prose) if isinstance(p, tuple)) == prose, "prose is not held back"
    assert split(syntax, list(f"{prose}\n{WRITTEN[family]}")) == ("", prose, CALLS)


@EACH
def test_markers_inside_reasoning(family: str) -> None:
    syntax = SYNTAXES[family]
    assert syntax.tools
    text = f"I think.\n{WRITTEN[family]}"
    if syntax.tools.ends_thinking:
        assert split(syntax, list(text), True) == ("I think.", "", CALLS)
    else:
        assert split(syntax, list(text + "\n</think>\nHello"), True) == (text, "Hello", [])


@EACH
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_cut_gives_the_same_and_loses_nothing(family: str, data: st.DataObject) -> None:
    syntax = SYNTAXES[family]
    assert syntax.tools
    written = WRITTEN[family]
    bits = [
        *syntax.markers,
        written,
        written[: len(written) // 2],
        written[len(written) // 2 :],
        *" \nx{}`",
        "é中",
        "😀",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(bits), max_size=8)))
    in_reasoning = data.draw(st.booleans())
    whole = split(syntax, [text], in_reasoning)
    assert split(syntax, cut(text, data.draw(st.lists(st.integers(0, 999), max_size=12))), in_reasoning) == whole
    assert split(syntax, list(text), in_reasoning) == whole
    if not whole[2]:
        # Without a call, all that is missing is white space and the thinking tags that were obeyed.
        everything, shown = "".join(text.split()), "".join((whole[0] + whole[1]).split())
        opening, closing = syntax.think
        without = everything.replace(closing, "", 1)
        assert shown in {everything, without, without.replace(opening, "", 1), everything.replace(opening, "", 1)}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(WRITTEN)), st.text(max_size=60), st.booleans())
def test_any_text_in_a_block_raises_nothing(family: str, inside: str, in_reasoning: bool) -> None:
    syntax = SYNTAXES[family]
    assert syntax.tools
    text = syntax.tools.open + inside + syntax.tools.close
    assert split(syntax, [text], in_reasoning) == split(syntax, list(text), in_reasoning)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4))
@pytest.mark.parametrize("family", ["kimi_k25", "deepseek_v3"])
def test_json_arguments_come_back(family: str, arguments: dict[str, Any]) -> None:
    syntax, text = SYNTAXES[family], json.dumps(arguments, ensure_ascii=False)
    assume(not any(marker in text for marker in syntax.markers))  # a tokenizer makes one token of it, text or not
    written = WRITTEN[family].replace('{"city": "Zürich 中", "days": 3}', text)
    assert split(syntax, [written])[2] == [("weather", arguments), ("now", {})]


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[1]", "{", "", "[" * 100_000])
@pytest.mark.parametrize("family", ["kimi_k25", "deepseek_v3"])
def test_arguments_that_json_can_not_hold(family: str, text: str) -> None:
    written = WRITTEN[family].replace('{"city": "Zürich 中", "days": 3}', text)
    assert split(SYNTAXES[family], [written]) == ("", written, [])


@pytest.mark.parametrize("family", ["qwen3_5_moe", "glm_moe_dsa", "minimax_m2"])
@pytest.mark.parametrize(
    "value", ["", "a\nb", "  two  ", "x < y </parameter> z", "</arg_value>.", "{", '"quoted"', "7"]
)
def test_text_is_kept_as_it_is(family: str, value: str) -> None:
    written = WRITTEN[family].replace("Zürich 中", value)
    assert split(SYNTAXES[family], [written])[2][0] == ("weather", {"city": value, "days": 3})


def test_ids_that_a_model_gives_are_kept() -> None:
    calls = ChannelSplitter(False, SYNTAXES["kimi_k25"]).feed(WRITTEN["kimi_k25"])
    assert [call.id for call in calls if isinstance(call, ToolCall)] == ["functions.weather:0", "functions.now:1"]


def test_a_later_deepseek_writes_bare_arguments() -> None:
    text = (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "```"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    )
    assert split(SYNTAXES["deepseek_v3"], [text])[2] == [("f", {"a": "```"}), ("function", {})]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "3", "3"),
        ({"type": "string"}, "True", "True"),
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, "three", "three"),
        ({"type": "number"}, "3", 3),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"type": "array"}, "[1, 'a']", "[1, 'a']"),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "None", None),
        ({"type": ["string", "null"]}, "3", "3"),
        ({"type": ["string", "integer"]}, "3", 3),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "[3]", "[3]"),
        ({"anyOf": [{"type": "string"}, {"$ref": "#/x"}]}, "[3]", [3]),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({}, "3", 3),
        ({}, "True", "True"),
        ({}, '"3"', '"3"'),
        ({}, "NaN", "NaN"),
        ({}, "[" * 100_000, "[" * 100_000),
        (None, "null", None),
        ("nonsense", "x", "x"),
    ],
)
def test_the_schema_decides_what_a_text_means(schema: Any, text: str, value: Any) -> None:
    found = typed("f", {"a": text}, {"f": {"properties": {"a": schema}}})
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_without_a_schema_json_that_is_no_string_counts() -> None:
    texts = {"a": "[1]", "b": "word", "c": '"quoted"', "d": "1.5"}
    assert typed("g", texts, {"f": {}}) == {"a": [1], "b": "word", "c": '"quoted"', "d": 1.5}
