"""A model's own tokenizer: text to ids, and ids back to text one at a time."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quant.checkpoint import read_json
from quant.errors import CheckpointError, UnsupportedError

THINK_TAGS = ("<think>", "</think>")


def _byte_of_char() -> dict[str, int]:
    """The printable stand-in that byte-level BPE (GPT-2) gives each byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE = _byte_of_char()


class Tokenizer:
    """Byte-level BPE over the `tokenizers` library, with the ids that end a turn."""

    def __init__(self, path: Path, stop_ids: frozenset[int]) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for a file it can't read
            raise CheckpointError(f"{path.name}: {error}", hint="pull the model again") from error
        definition = read_json(path)
        if "ByteLevel" not in json.dumps(definition.get("decoder")):
            raise UnsupportedError(f"{path.name}: only byte-level tokenizers are supported")
        self.stop_ids = stop_ids
        self._special = {
            token["id"]
            for token in definition.get("added_tokens", [])
            if token.get("special") and token.get("content") not in THINK_TAGS
        }

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a model folder; raises CheckpointError where it is missing or damaged."""
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(f"{path.name} is missing from {folder}", hint="pull the model again")
        names = {t["content"]: t["id"] for t in read_json(path).get("added_tokens", []) if isinstance(t, dict)}
        return cls(path, _stop_ids(folder, names))

    def encode(self, text: str) -> list[int]:
        """Ids of the text exactly as it stands; nothing is added at either end."""
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; control tokens give none."""
        decoder = StreamDecoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.finish()

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes a token stands for: none for a control token, and for an id that has no token."""
        token = None if token_id in self._special else self._library.id_to_token(token_id)
        if token is None:
            return b""
        if all(char in _BYTE for char in token):
            return bytes(_BYTE[char] for char in token)
        return token.encode()  # an added token such as <｜User｜> stands for its own characters


class IdsOnly:
    """Stands in where a model came without a tokenizer and is given ids: they stop, but they make no text."""

    def __init__(self, folder: Path) -> None:
        self.stop_ids = _stop_ids(folder, {})

    def bytes_of(self, token_id: int) -> bytes:
        """None."""
        return b""


class StreamDecoder:
    """Turns ids into text one at a time, holding back bytes that do not yet make a character."""

    def __init__(self, tokenizer: Tokenizer | IdsOnly) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token."""
        return self._decoder.decode(self._tokenizer.bytes_of(token_id))

    def finish(self) -> str:
        """The replacement character for bytes that never became one."""
        return self._decoder.decode(b"", final=True)


def _stop_ids(folder: Path, names: dict[str, int]) -> frozenset[int]:
    """Every id that some file of the model calls an end of sequence; none of them names all on its own."""
    found: list[Any] = []
    for file in ("generation_config.json", "config.json", "tokenizer_config.json"):
        if (folder / file).exists():
            config = read_json(folder / file)
            text = config.get("text_config")
            for place in (config, text if isinstance(text, dict) else {}):
                value = place.get("eos_token_id", place.get("eos_token"))
                found += value if isinstance(value, list) else [value]
    contents = [value.get("content") if isinstance(value, dict) else value for value in found]
    ids = [names.get(value) if isinstance(value, str) else value for value in contents]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool))
