"""A `tiktoken.model` file: the vocabulary as lines of "base64 of the bytes, space, rank", and nothing else.

What tiktoken does with ranks, the `tokenizers` library does with merges: of all neighbours whose bytes together are a
token, join those of the lowest rank, the leftmost first. So every way to cut a token into two tokens becomes a merge
of that token's rank. Cuts that never meet do no harm: until a token is formed, its bytes are joined as they would be
alone, and that ends in one pair of neighbours, the same each time.
"""

from __future__ import annotations

from binascii import Error, a2b_base64
from pathlib import Path
from typing import TYPE_CHECKING

from cpu_runtime.text.byte_level import CHAR_OF_BYTE
from quant.checkpoint import read_json
from quant.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

NAME = "tiktoken.model"
SPECIAL_TOKENS = 256  # after the ranks; tokenizer_config.json names some of them
LARGEST_FILE = 64 << 20  # bytes; a published one has 3 million
LONGEST_TOKEN = 1024  # bytes; a published one has about 200
AGAIN = "pull the model again"

# How text is cut before BPE: runs of Han, words with at most one leading sign, numbers of three digits, signs, space.
_UPPER, _LOWER = (rf"[{cased}\p{{Lm}}\p{{Lo}}\p{{M}}&&[^\p{{Han}}]]" for cased in (r"\p{Lu}\p{Lt}", r"\p{Ll}"))
_SIGN, _SHORT = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLIT = "|".join(
    (
        r"[\p{Han}]+",
        f"{_SIGN}{_UPPER}*{_LOWER}+{_SHORT}",
        f"{_SIGN}{_UPPER}+{_LOWER}*{_SHORT}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def load(folder: Path) -> Library:
    """The tokenizer of a model folder with this file; raises CheckpointError naming the file and line at fault."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens = _ranked(folder / NAME)
    vocab = {text: rank for rank, text in enumerate(_printable(tokens))}
    merges = [
        (text[:cut], text[cut:])
        for text in vocab
        for cut in range(1, len(text))
        if text[cut:] in vocab and text[:cut] in vocab
    ]
    # A whole word that is a token is taken as it is, reachable by merges or not: tiktoken does so too.
    library = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    specials = _specials(folder, len(vocab))
    taken = next((content for content, _ in specials if content in vocab), None)
    if taken is not None:
        raise CheckpointError(f"tokenizer_config.json: the special token {taken!r} is also in {NAME}", hint=AGAIN)
    library.add_tokens([AddedToken(content, special=special, normalized=False) for content, special in specials])
    return library


def _ranked(path: Path) -> list[bytes]:
    """The tokens' bytes, in order of rank."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise CheckpointError(f"{path.name}: {size} bytes is no vocabulary", hint=AGAIN)
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckpointError(f"{path.name}: {error.strerror}", hint=AGAIN) from error
    tokens: list[bytes] = []
    for number, line in enumerate(lines):
        text, _, rank = line.partition(b" ")
        try:
            token = a2b_base64(text, strict_mode=True)
        except Error as error:
            raise _fault(path, number, f"{_shown(text)} is not base64") from error
        if rank != b"%d" % number:
            raise _fault(path, number, f"expected rank {number}, found {_shown(rank)}")
        if not 1 <= len(token) <= LONGEST_TOKEN:
            raise _fault(path, number, f"a token of {len(token)} bytes; 1 to {LONGEST_TOKEN} are possible")
        tokens.append(token)
    _check_whole(path, tokens)
    return tokens


def _check_whole(path: Path, tokens: list[bytes]) -> None:
    """No token twice, no byte missing."""
    first: dict[bytes, int] = {}
    for number, token in enumerate(tokens):
        if first.setdefault(token, number) != number:
            raise _fault(path, number, f"the token of line {first[token] + 1} again")
    missing = next((byte for byte in range(256) if bytes([byte]) not in first), None)
    if missing is not None:
        raise _fault(path, max(0, len(tokens) - 1), f"the file ends without a token for the single byte {missing:#04x}")


def _fault(path: Path, number: int, what: str) -> CheckpointError:
    return CheckpointError(f"{path.name}, line {number + 1}: {what}", hint=AGAIN)


def _shown(text: bytes) -> str:
    return repr(text[:40].decode("latin-1"))


def _printable(tokens: list[bytes]) -> list[str]:
    """The tokens as a byte-level vocabulary spells them; at once, since there are many."""
    between = "\u2028"  # no byte's stand-in
    return between.join(token.decode("latin-1") for token in tokens).translate(CHAR_OF_BYTE).split(between)


def _specials(folder: Path, start: int) -> list[tuple[str, bool]]:
    """(text, whether it is a control token) of the special tokens, in order of their ids from `start`."""
    named = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
    tokens = {str(n): (f"<|reserved_token_{n}|>", True) for n in range(start, start + SPECIAL_TOKENS)}
    for key, token in named.items() if isinstance(named, dict) else ():
        content = token.get("content") if isinstance(token, dict) else None
        if key not in tokens or not isinstance(content, str) or not content:
            raise _misnamed(f"token {key!r} must have a text, and an id from {start} to {start + SPECIAL_TOKENS - 1}")
        tokens[key] = content, token.get("special") is not False
    texts = [content for content, _ in tokens.values()]
    twice = next((text for text in texts if texts.count(text) > 1), None)
    if twice is not None:
        raise _misnamed(f"two tokens are called {twice!r}")
    return list(tokens.values())


def _misnamed(what: str) -> CheckpointError:
    return CheckpointError(f"tokenizer_config.json: added_tokens_decoder: {what}", hint=AGAIN)
