"""A text a piece at a time is the whole text, to the character and to the token."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import pytest

from cli import text_file
from cpu_runtime import Engine
from quant.errors import UsageError
from tests.conftest import DEMO, Quantized

TEXT = "\n".join(topics[name] for name in sorted(topics))[:250_000] + "\n\n"


def test_pieces_are_the_text(quantized: Quantized, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(TEXT)
    found = list(text_file.pieces(tmp_path / "text"))
    assert "".join(found) == TEXT
    assert len(found) > 3
    assert all(piece.endswith("\n") for piece in found)
    with Engine.open(quantized(DEMO, "int8"), context=64) as engine:
        assert sum(map(engine.tokenizer.encode, found), []) == engine.tokenizer.encode(TEXT)


def test_a_text_without_lines(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("é" * 200_000)
    assert "".join(text_file.pieces(tmp_path / "text")) == "é" * 200_000
    assert max(map(len, text_file.pieces(tmp_path / "text"))) <= 1 << 16


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"line\n" * 100_000 + b"\xff")
    with pytest.raises(UsageError, match="not UTF-8 after"):
        list(text_file.pieces(tmp_path / "text"))
    for reads in (text_file.checksum, lambda path: list(text_file.pieces(path))):
        with pytest.raises(UsageError, match="No such file"):
            reads(tmp_path / "none")
