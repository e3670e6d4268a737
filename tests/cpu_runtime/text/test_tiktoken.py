"""A tokenizer that comes as ranks: what it encodes to, and files that are none."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpu_runtime.text import tiktoken_file
from cpu_runtime.text.tokenizer import Tokenizer
from quant.errors import CheckpointError
from tests.cpu_runtime.text.families import SYNTAXES, WRITTEN

SCRIPTS = (
    "the quick fox getValue XMLHttp Straße naïve Ελλάδα Привет שלום مرحبا नमस्ते สวัสดี 한국어 ひらがな カタカナ "
    "汉字 漢字 😀 123 4567 \n\r\n\t  '' 's 'LL ½ ﬁ e\u0301 〇 々"
)
NAMED = {"[BOS]": (0, True), "<|im_end|>": (2, True), "<think>": (22, False), "</think>": (23, False)}
CONTROL = re.compile("|".join(re.escape(name) for name, (_, control) in NAMED.items() if control))


def grown(seed: int, size: int) -> list[bytes]:
    """A vocabulary: all bytes in some order, then joins of two earlier tokens, and a few that no merge makes."""
    rng = random.Random(seed)
    tokens = [bytes([byte]) for byte in range(256)]
    rng.shuffle(tokens)
    tokens += [b"quick brown"[:8], b"zyzzyx"]
    text = SCRIPTS.encode()
    while len(tokens) < size:
        at = rng.randrange(len(text) - 4)
        known = [n for n in range(1, 9) if text[at : at + n] in tokens]
        left = text[at : at + rng.choice(known)]
        rest = [n for n in range(1, 9) if text[at + len(left) : at + len(left) + n] in tokens]
        right = text[at + len(left) : at + len(left) + rng.choice(rest)] if rest else b""
        if right and left + right not in tokens:
            tokens.append(left + right)
    return tokens


def lines(tokens: list[bytes]) -> list[bytes]:
    return [b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]


def write(folder: Path, content: list[bytes], start: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tiktoken.model").write_bytes(b"\n".join(content) + b"\n")
    decoder = {str(start + n): {"content": name, "special": special} for name, (n, special) in NAMED.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    return folder


TOKENS = grown(seed=5, size=700)
RANKS = {token: rank for rank, token in enumerate(TOKENS)}
START = len(TOKENS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = write(tmp_path_factory.mktemp("ranks"), lines(TOKENS), START)
    return Tokenizer.load(folder, SYNTAXES["kimi_k25"])


@pytest.fixture(scope="module")
def peer() -> Any:
    tiktoken = pytest.importorskip("tiktoken")
    special = {name: START + n for name, (n, _) in NAMED.items()}
    return tiktoken.Encoding("x", pat_str=tiktoken_file.SPLIT, mergeable_ranks=RANKS, special_tokens=special)


def twin(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """BPE by ranks, slow and obvious."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([byte]) for byte in piece]
    while True:
        joins = [(ranks[a + b], at) for at, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]
        if not joins:
            return [ranks[part] for part in parts]
        _, at = min(joins)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


WORDS = st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyzqukthzyx"), min_size=1, max_size=30)


@settings(deadline=None, max_examples=300)
@given(WORDS)
def test_one_word_is_joined_as_the_ranks_say(tokenizer: Tokenizer, word: str) -> None:
    assert tokenizer.encode(word) == twin(word.encode(), RANKS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=25), min_size=1))
def test_any_ranks(tmp_path_factory: pytest.TempPathFactory, seed: int, words: list[str]) -> None:
    """Even where a token has a lower rank than its parts, which no training makes."""
    rng = random.Random(seed)
    longer = {"".join(rng.choices("abc", k=rng.randint(2, 5))).encode() for _ in range(30)}
    tokens = [bytes([byte]) for byte in range(256)] + sorted(longer, key=lambda _: rng.random())
    rng.shuffle(tokens)
    loaded = Tokenizer.load(write(tmp_path_factory.mktemp("any"), lines(tokens), len(tokens)))
    ranks = {token: rank for rank, token in enumerate(tokens)}
    for word in words:
        assert loaded.encode(word) == twin(word.encode(), ranks)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello world", ["Hello", " world"]),
        ("getValueOf XMLHttp", ["get", "Value", "Of", " XMLHttp"]),
        ("I'm sure they'LL", ["I'm", " sure", " they'LL"]),
        ("12345 67", ["123", "45", " ", "67"]),
        ("汉字です,漢字", ["汉字", "です", ",", "漢字"]),
        ("a汉b", ["a", "汉", "b"]),
        ("Привет мир", ["Привет", " мир"]),
        ("नमस्ते", ["नमस्ते"]),
        ("e\u0301t", ["e\u0301t"]),
        ("x  \n y\n\n z", ["x", "  \n", " y", "\n\n", " z"]),
        ("a   b  ", ["a", "  ", " b", "  "]),
        ("if(x){\r\n}", ["if", "(x", "){\r\n", "}"]),
        ("😀!? ok", ["😀!?", " ok"]),
    ],
)
def test_where_text_is_cut(text: str, pieces: list[str]) -> None:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(tiktoken_file.SPLIT), "isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pieces


@settings(deadline=None, max_examples=300)
@given(st.lists(st.one_of(st.text(), st.sampled_from(SCRIPTS.split(" ")), st.sampled_from(" \n")), max_size=12))
@example(["<|im_end|>"])
def test_text_comes_back(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    assert tokenizer.decode(tokenizer.encode(text)) == CONTROL.sub("", text)  # hypothesis draws the names as well


@settings(deadline=None, max_examples=500)
@given(st.lists(st.one_of(st.text(), st.sampled_from(SCRIPTS.split(" ")), st.sampled_from(" \n")), max_size=12))
def test_tiktoken_agrees(tokenizer: Tokenizer, peer: Any, parts: list[str]) -> None:
    for text in ("".join(parts), "[BOS]".join(parts), "<think>".join(parts)):
        assert tokenizer.encode(text) == peer.encode(text, allowed_special="all")


def test_special_tokens(tokenizer: Tokenizer) -> None:
    text = f"[BOS]a<|im_end|><think></think><|reserved_token_{START + 255}|>"
    a = TOKENS.index(b"a")
    assert tokenizer.encode(text) == [START, a, START + 2, START + 22, START + 23, START + 255]
    assert tokenizer.decode(tokenizer.encode(text)) == "a<think></think>"
    assert tokenizer.bytes_of(START + 256) == b""
    assert tokenizer.stop_ids == {START + 2}


def test_markers_of_calls_have_text(tmp_path: Path) -> None:
    write(tmp_path, lines(TOKENS), START)
    tools = SYNTAXES["kimi_k25"].tools
    assert tools
    decoder = {str(START + 11 + n): {"content": name, "special": True} for n, name in enumerate(tools.markers)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    text = WRITTEN["kimi_k25"]
    seen, silent = (Tokenizer.load(tmp_path, syntax) for syntax in (SYNTAXES["kimi_k25"], None))
    ids = seen.encode(text)
    assert set(range(START + 11, START + 16)) <= set(ids)
    assert seen.decode(ids) == text
    assert "<|" not in silent.decode(ids)


def test_tokenizer_json_goes_first(tmp_path: Path) -> None:
    write(tmp_path, lines(TOKENS), START)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def changed(at: int, line: bytes) -> list[bytes]:
    content = lines(TOKENS)
    content[at] = line
    return content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(3, b"!!! 3"), "line 4: '!!!' is not base64"),
        (changed(3, b"\xff\xfe 3"), "line 4: 'ÿþ' is not base64"),
        (changed(3, b"YWI 3"), "line 4: 'YWI' is not base64"),
        (changed(3, b64encode(b"new") + b" 4"), "line 4: expected rank 3, found '4'"),
        (changed(3, b64encode(b"new") + b" 2"), "line 4: expected rank 3, found '2'"),
        (changed(3, b64encode(b"new")), "line 4: expected rank 3, found ''"),
        (changed(3, b64encode(b"new") + b" three"), "line 4: expected rank 3, found 'three'"),
        (changed(3, b64encode(b"new") + b" 3 3"), "line 4: expected rank 3, found '3 3'"),
        (changed(3, b""), "line 4: expected rank 3"),
        (changed(600, lines(TOKENS)[300].split()[0] + b" 600"), "line 601: the token of line 301 again"),
        (changed(3, b64encode(b"x" * 2000) + b" 3"), "line 4: a token of 2000 bytes"),
        (changed(3, b64encode(b"new") + b" 3"), f"line 700: .* single byte {TOKENS[3][0]:#04x}"),
        (lines(TOKENS)[:100], "line 100: .* single byte"),
        ([], "line 1: expected rank 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_ranks_that_is_none(tmp_path: Path, content: list[bytes], words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"tiktoken\.model, {words}"):
        Tokenizer.load(write(tmp_path, content, START))


@pytest.mark.parametrize(
    "decoder",
    [
        {str(START - 1): {"content": "low"}},
        {str(START + 256): {"content": "high"}},
        {"x": {"content": "a"}},
        {str(START): {"content": ""}},
        {str(START): {"content": 3}},
        {str(START): "a"},
        {str(START): {"content": "a"}, str(START + 1): {"content": "a"}},
        {str(START): {"content": f"<|reserved_token_{START + 9}|>"}},
        {str(START): {"content": "zyzzyx"}},
    ],
    ids=str,
)
def test_special_tokens_that_can_not_be(tmp_path: Path, decoder: dict[str, Any]) -> None:
    write(tmp_path, lines(TOKENS), START)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)
