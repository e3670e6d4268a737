"""A model's own tokenizer: text to ids, and ids back to text one at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpu_runtime.text import tiktoken_file
from cpu_runtime.text.byte_level import BYTE_OF_CHAR
from cpu_runtime.text.syntax import ChatSyntax
from quant.checkpoint import read_json
from quant.errors import CheckpointError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

FILES = ("tokenizer.json", tiktoken_file.NAME)


class Tokenizer:
    """Byte-level BPE over the `tokenizers` library, with the ids that end a turn, and those that begin any text.

    `shown` are the control tokens that have text all the same, because something in it is to be recognized.
    """

    def __init__(
        self, library: Library, stop_ids: frozenset[int], shown: Collection[str] = (), opening: Sequence[int] = ()
    ) -> None:
        self._library = library
        self.stop_ids = stop_ids
        self.opening = list(opening)
        self._added = {
            id_: b"" if token.special and token.content not in shown else token.content.encode()
            for id_, token in library.get_added_tokens_decoder().items()
        }

    @classmethod
    def load(cls, folder: Path, syntax: ChatSyntax | None = None) -> Tokenizer:
        """The tokenizer of a model folder; raises CheckpointError where it is missing or damaged."""
        syntax = syntax or ChatSyntax()
        file = find(folder)
        if file is None:
            raise CheckpointError(f"{FILES[0]} is missing from {folder}", hint="pull the model again")
        library = tiktoken_file.load(folder) if file.name == tiktoken_file.NAME else _from_json(file)
        stop_ids = _stop_ids(folder, library.token_to_id, syntax.stops)
        return cls(library, stop_ids, syntax.markers, _opening(folder, library))

    def encode(self, text: str) -> list[int]:
        """Ids of the text exactly as it stands; nothing is added at either end.

        Raises UsageError for half a surrogate pair, which is how Python holds bytes that are no text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the prompt is not text: {text[error.start]!a} is no character") from error
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; control tokens give none."""
        decoder = StreamDecoder(self)
        return "".join(map(decoder.feed, ids)) + decoder.finish()

    def name_of(self, token_id: int) -> str | None:
        """How the vocabulary spells a token; None for an id that has no token."""
        name: str | None = self._library.id_to_token(token_id)
        return name

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes a token stands for: none for a control token, and for an id that has no token."""
        if token_id in self._added:
            return self._added[token_id]
        token = self._library.id_to_token(token_id)
        if token is None:
            return b""
        if all(char in BYTE_OF_CHAR for char in token):
            return bytes(BYTE_OF_CHAR[char] for char in token)
        return token.encode()  # a token such as <｜User｜>, not marked as added, stands for its own characters


class IdsOnly:
    """Stands in where a model came without a tokenizer and is given ids: they stop, but they make no text."""

    def __init__(self, folder: Path) -> None:
        self.stop_ids = _stop_ids(folder, lambda name: None, ())

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


def find(folder: Path) -> Path | None:
    """The file in a model folder that holds its tokenizer, if one does."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _from_json(path: Path) -> Library:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a file it can't read
        raise CheckpointError(f"{path.name}: {error}", hint="pull the model again") from error
    # Its state is the decoder's JSON; reading the whole file a second time would take as long as loading it.
    if library.decoder is None or b"ByteLevel" not in library.decoder.__getstate__():
        raise UnsupportedError(f"{path.name}: only byte-level tokenizers are supported")
    return library


def _opening(folder: Path, library: Library) -> list[int]:
    """What a text that is no conversation begins with: `bos_token` where a config says so, or the template's own."""
    file = folder / "tokenizer_config.json"
    config = read_json(file) if file.exists() else {}
    bos = config.get("bos_token")
    content = bos.get("content") if isinstance(bos, dict) else bos
    id_ = library.token_to_id(content) if isinstance(content, str) and config.get("add_bos_token") is True else None
    return list(library.encode("").ids) if id_ is None else [id_]


def _stop_ids(folder: Path, id_of: Callable[[str], int | None], stops: Sequence[str]) -> frozenset[int]:
    """Every id that some file of the model, or its family, calls an end; none of them names all on its own."""
    found: list[Any] = list(stops)
    for file in ("generation_config.json", "config.json", "tokenizer_config.json"):
        if (folder / file).exists():
            config = read_json(folder / file)
            text = config.get("text_config")
            for place in (config, text if isinstance(text, dict) else {}):
                for value in (place.get("eos_token_id"), place.get("eos_token")):
                    found += value if isinstance(value, list) else [value]
    contents = [value.get("content") if isinstance(value, dict) else value for value in found]
    ids = [id_of(value) if isinstance(value, str) else value for value in contents]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool))
