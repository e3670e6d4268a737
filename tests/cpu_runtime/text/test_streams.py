"""Streams of text must not depend on how they were cut: every test feeds them in every way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_runtime.text.channels import ChannelSplitter
from cpu_runtime.text.stops import StopStrings
from cpu_runtime.text.syntax import ChatSyntax
from cpu_runtime.text.tokenizer import StreamDecoder, Tokenizer
from tests.conftest import DEMO


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


def pieces(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted({c % (len(text) + 1) for c in cuts}), len(text)]
    return [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def split(text: str, cuts: list[int], in_reasoning: bool) -> tuple[str, str]:
    splitter, found = ChannelSplitter(in_reasoning, ChatSyntax()), {"reasoning": "", "content": ""}
    for part in [p for piece in pieces(text, cuts) for p in splitter.feed(piece)] + splitter.finish():
        assert isinstance(part, tuple)
        found[part[0]] += part[1]
    return found["reasoning"], found["content"]


CUTS = st.lists(st.integers(0, 100), max_size=8)


@settings(deadline=None)
@given(CUTS)
@pytest.mark.parametrize(
    ("text", "in_reasoning", "expected"),
    [
        ("I think.\n</think>\n\nHello", True, ("I think.", "Hello")),
        ("\nI think </thin\n</think>Hello </think>", True, ("I think </thin", "Hello </think>")),
        ("<think>\nI think.</think> Hello", False, ("I think.", "Hello")),
        ("Hello <think> no", False, ("", "Hello <think> no")),
        ("<thin", False, ("", "<thin")),
        ("never closed </th", True, ("never closed </th", "")),
        ("", True, ("", "")),
    ],
)
def test_channels(text: str, in_reasoning: bool, expected: tuple[str, str], cuts: list[int]) -> None:
    assert split(text, cuts, in_reasoning) == expected


@settings(deadline=None)
@given(CUTS, st.sampled_from(["abcENDdef", "abcEN", "ENENEND", "xxabyy", "", "aba"]))
def test_stop_strings(cuts: list[int], text: str) -> None:
    stops = ["END", "abab", ""]
    watcher, shown, stopped = StopStrings(stops), "", False
    for piece in pieces(text, cuts):
        part, stopped = watcher.feed(piece)
        shown += part
        if stopped:
            break
    shown += "" if stopped else watcher.finish()
    assert shown == text.partition("END")[0]
    assert stopped == ("END" in text)


@settings(deadline=None)
@given(st.text())
def test_ids_give_back_the_text_they_came_from(tokenizer: Tokenizer, text: str) -> None:
    if "<|" not in text:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_character_is_shown_when_it_is_whole(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.feed(token) for token in tokenizer.encode("a😀é中b")]
    assert "".join(parts) + decoder.finish() == "a😀é中b"
    assert not any("�" in part for part in parts)
    assert "" in parts, "the emoji comes in several tokens"


def test_bytes_that_never_make_a_character(tokenizer: Tokenizer) -> None:
    decoder, half = StreamDecoder(tokenizer), tokenizer.encode("😀")[:-1]
    assert half
    assert "".join(map(decoder.feed, half)) == ""
    assert decoder.finish() == "�"
