"""A model opened for inference: weights, experts and text tools, shared by any number of sessions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from cpu_runtime import heap, models
from cpu_runtime.crowd import Crowd, crowd
from cpu_runtime.experts.copies import open_mirror
from cpu_runtime.experts.mapped import MappedExperts
from cpu_runtime.experts.streamed import StreamedExperts
from cpu_runtime.layers.ahead import looking_ahead
from cpu_runtime.layers.linear import PassingEmbedding
from cpu_runtime.memory import Division, divide, with_window
from cpu_runtime.pressure import Pressure
from cpu_runtime.sampling import SamplingParams
from cpu_runtime.session import PREFILL_CHUNK, ContextError, Session
from cpu_runtime.threads import physical_cores
from quant.container import QuantizedModel, open_model
from quant.errors import UsageError
from quant.jit import set_threads

if TYPE_CHECKING:
    from cpu_runtime.text.chat import Chat
    from cpu_runtime.text.syntax import ChatSyntax
    from cpu_runtime.text.tokenizer import Tokenizer


class Engine:
    """One model, ready to run; close it when done (it is a context manager).

    `context` is the window in tokens, `model_context` the longest that the model was made for. Experts are in `store`:
    mapped where the whole model fits in memory, else streamed.
    """

    def __init__(
        self,
        model: QuantizedModel,
        *,
        context: int | None = None,
        kv_dtype: str | None = None,
        memory_bytes: int | None = None,
        verify: bool = False,
        mirror: Path | None = None,
    ) -> None:
        family = models.find(model.config)
        config = family.read(model.config)
        model.check(family.plan(config, ()))
        self.model = model
        self._mirror = None if mirror is None else open_mirror(mirror, model)
        self.name = model.path.name
        self.config = model.config
        self.syntax: ChatSyntax = family.chat
        self.vocab_size: int = config.vocab
        self.model_context: int = config.context
        if context is not None and not 1 <= context <= config.context:
            raise UsageError(f"--ctx {context} is outside 1 to {config.context}, which {self.name} was made for")
        self.kv_dtype = np.dtype(kv_dtype or ("float16" if model.quantized else "float32"))
        self.store: MappedExperts | StreamedExperts = MappedExperts(model, verify=verify)
        self.decoder = family.build(config, model, self.store)

        def division_of(window: int) -> Division:
            return divide(model, self.decoder, window, self.kv_dtype, memory_bytes)

        self.context, self.division = with_window(division_of, context, config.context)
        self.pressure: Pressure | None = None
        self.crowd: Crowd | None = None
        if not self.division.fits:
            slots = self.division.slots(self.context)
            model.keep_dense()
            self.store = StreamedExperts(model, slots, verify=verify, mirror=self._mirror)
            self.pressure = Pressure(self.store, self.division.total)
            decoder = family.build(config, model, self.store)
            embedding = PassingEmbedding(decoder.embedding.matrix, model.let_go)
            self.decoder = replace(decoder, embedding=embedding, blocks=looking_ahead(decoder.blocks))

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        threads: int | None = None,
        context: int | None = None,
        kv_dtype: str | None = None,
        memory_bytes: int | None = None,
        verify: bool = False,
        mirror: Path | None = None,
    ) -> Engine:
        """Open a quantized model's folder; threads default to the physical cores, fewer while others want these too.

        Keys and values are cached as `kv_dtype`: float16, but float32 where nothing is quantized, since that model is
        what others are measured against. The process stays under `memory_bytes`, or what is available if None. With
        `verify` an expert's checksum is compared when it is first read. `mirror` is a copy of the folder on another
        drive: experts that don't fit in memory are read from both at once.

        Raises the errors of `quant.errors`: CheckpointError for damaged files, UnsupportedError for an unknown family,
        ResourceError where the memory is too little.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"--threads {threads}: at least one is needed")
        set_threads(threads or physical_cores())
        heap.keep()
        model = open_model(path)
        engine = cls(model, context=context, kv_dtype=kv_dtype, memory_bytes=memory_bytes, verify=verify, mirror=mirror)
        if threads is None:
            engine.crowd = crowd(physical_cores())
        return engine

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; read on first use, since logits of ids need none."""
        from cpu_runtime.text.tokenizer import Tokenizer

        return Tokenizer.load(self.model.path, self.syntax)

    @cached_property
    def chat(self) -> Chat:
        """The model's chat template over its tokenizer."""
        from cpu_runtime.text.chat import Chat

        return Chat.load(self.model.path, self.tokenizer, self.syntax)

    @cached_property
    def defaults(self) -> SamplingParams:
        """Sampling as the model's makers advise in generation_config.json, else the built-in defaults."""
        path = self.model.path / "generation_config.json"
        return SamplingParams.from_generation_config(_read_object(path) if path.exists() else {})

    def session(self) -> Session:
        """A new, empty timeline."""
        return Session(self)

    def logits(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits after each of the ids, in chunks: [t, V] f32, T rows in all; raises as `Session.generate` does."""
        self.check(ids)
        session = self.session()
        for start in range(0, len(ids), PREFILL_CHUNK):  # no longer: a row of logits is as long as the vocabulary
            yield self.decoder.logits(session.advance(ids[start : start + PREFILL_CHUNK]))

    def check(self, ids: Sequence[int]) -> None:
        """Raise UsageError unless these ids can be a prompt, ContextError where they do not fit the window."""
        if not ids:
            raise UsageError("the prompt is empty", hint="give at least one token")
        wrong = next((token for token in ids if not 0 <= token < self.vocab_size), None)
        if wrong is not None:
            raise UsageError(f"token id {wrong} is outside the vocabulary of {self.vocab_size}")
        if len(ids) > self.context:
            raise ContextError(
                f"the prompt is {len(ids)} tokens; the context window is {self.context}",
                hint="shorten it, /clear the conversation, or restart with a larger --ctx",
            )

    def warm_up(self) -> None:
        """Compile, or load from the cache, every kernel that a first prompt and a first token need.

        One block of each kind is run, so that little of a large model is read.
        """
        kinds = {(type(block.mixer), type(block.feed_forward)): block for block in self.decoder.blocks}
        short = replace(self.decoder, blocks=list(kinds.values()))
        caches = short.new_caches(self.context, self.kv_dtype)
        for tokens in (2, 1):
            short.logits(short.hidden(np.zeros(tokens, np.int64), caches)[-1:])

    @property
    def chunk(self) -> int:
        """Tokens of a prompt that are computed at once."""
        return self.division.chunk

    @property
    def mapped_bytes(self) -> int:
        """Bytes of weights on disk that the model can touch."""
        return self.model.bytes

    @property
    def kept_experts_bytes(self) -> int | None:
        """Memory for experts where they are streamed; None where the whole model is mapped."""
        return self.store.bytes if isinstance(self.store, StreamedExperts) else None

    def close(self) -> None:
        """Let the experts and the model's files go; no thread is left."""
        self.store.close()
        self.model.close()
        if self._mirror is not None:
            self._mirror.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_object(path: Path) -> dict[str, Any]:
    from quant.errors import CheckpointError

    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: {error}", hint="pull or quantize the model again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name}: expected an object, found {type(value).__name__}")
    return value
