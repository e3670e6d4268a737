"""Two models open at the same time, sharing memory: one is compared with the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpu_runtime.engine import Engine
from cpu_runtime.memory import budget, process_bytes
from cpu_runtime.text.tokenizer import find
from quant.container import open_model
from quant.errors import UsageError


@contextmanager
def opened(
    model: Path, base: Path, *, context: int, threads: int | None = None, memory_bytes: int | None = None
) -> Iterator[tuple[Engine, Engine]]:
    """(the model, its base), opened with `context`, and closed at the end; each may be streamed.

    The smaller of them gets what it can use of half the memory, the other one the rest. Raises as `Engine.open` does,
    and UsageError where their vocabularies differ.
    """
    before, total = process_bytes(), budget(memory_bytes)
    small, large = sorted((model, base), key=_bytes)
    half = before + (total - before) // 2
    with Engine.open(small, threads=threads, context=context, memory_bytes=half) as first:
        # What the first holds already counts as the process's own when the second opens.
        rest = total - first.division.claimed + process_bytes() - before
        with Engine.open(large, threads=threads, context=context, memory_bytes=rest) as second:
            pair = (first, second) if small is model else (second, first)
            _check_vocabularies(*pair)
            yield pair


def _bytes(path: Path) -> int:
    model = open_model(path)
    size = model.bytes
    model.close()
    return size


def encode(model: Engine, base: Engine, text: str) -> list[int]:
    """The text's ids, which both tokenizers must find alike: raises UsageError."""
    ids, theirs = model.tokenizer.encode(text), base.tokenizer.encode(text)
    if ids != theirs or model.tokenizer.opening != base.tokenizer.opening:
        at = next((n for n, (a, b) in enumerate(zip(ids, theirs, strict=False)) if a != b), min(len(ids), len(theirs)))
        raise UsageError(f"{model.name} and {base.name} cut the text into tokens differently, from token {at} on")
    return ids


def _check_vocabularies(model: Engine, base: Engine) -> None:
    """Raise UsageError unless an id means the same to both, as far as they have tokenizers."""
    if model.vocab_size != base.vocab_size:
        raise UsageError(
            f"{model.name} has logits for {model.vocab_size} tokens, {base.name} for {base.vocab_size}: "
            "their distributions can't be compared"
        )
    if find(model.model.path) and find(base.model.path):
        ours, theirs = model.tokenizer, base.tokenizer
        for token in range(model.vocab_size):
            if ours.name_of(token) != theirs.name_of(token):
                names = f"{ours.name_of(token)!r} in {model.name}, {theirs.name_of(token)!r} in {base.name}"
                raise UsageError(
                    f"the tokenizers differ: token {token} is {names}",
                    hint="compare a model with one that was quantized from the same source",
                )
