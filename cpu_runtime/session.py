"""One timeline: the tokens a model has read so far, and the caches that remember them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cpu_runtime.workspace import NEW, TokenWorkspace
from quant.errors import UsageError
from quant.jit import set_threads, threads

if TYPE_CHECKING:
    from cpu_runtime.engine import Engine
    from cpu_runtime.events import Event
    from cpu_runtime.sampling import SamplingParams
    from cpu_runtime.text.tokenizer import IdsOnly, Tokenizer

PREFILL_CHUNK = 256  # tokens computed at once, at least: enough for the matrices to be read once for many tokens
LONGEST_CHUNK = 2048  # where there is memory for its arrays


class ContextError(UsageError):
    """The prompt does not fit the context window."""


@dataclass(frozen=True)
class _Mark:
    """A place in the timeline that can be gone back to."""

    length: int
    caches: list[Any]


class Session:
    """A conversation's state over an engine's immutable weights; `tokens` is exactly what the caches remember.

    Callers pass whole prompts; what the session has already read of it is not computed again. A recurrent state
    can't be cut back like a key/value cache, so the session keeps one mark: where the next turn is likely to differ.
    It is made when that place is reached, or later where every cache is `cuttable`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: list[int] = []
        self._caches = engine.decoder.new_caches(engine.context, engine.kv_dtype)
        self.cuttable: bool = all(cache.cuttable for cache in self._caches)
        self._mark = self._marked(0)
        self._workspace = TokenWorkspace()

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        in_reasoning: bool = False,
        stable: int = 0,
        tools: Sequence[dict[str, Any]] = (),
        tokenizer: Tokenizer | IdsOnly | None = None,
    ) -> Iterator[Event]:
        """Read the prompt and yield events until the answer ends; closing the iterator stops it.

        `in_reasoning` says that the prompt ends inside the model's thinking. `stable` is how many leading tokens of
        this prompt the next one is expected to repeat. `tools` are those that the prompt offers: their schemas give the
        arguments of calls their types. `tokenizer` is the model's own if not given.
        Raises ContextError, and UsageError for ids out of range.
        """
        from cpu_runtime.generate import generate

        return generate(
            self,
            prompt_ids,
            params,
            tokenizer or self.engine.tokenizer,
            in_reasoning=in_reasoning,
            stable=stable,
            tools=tools,
        )

    def sync(self, prompt_ids: Sequence[int]) -> int:
        """Go back to the longest remembered part of the prompt and return its length, short of the last token.

        The last token is always left to compute, because its logits are what generation starts from.
        """
        prompt = list(prompt_ids)
        if len(self.tokens) < len(prompt) and prompt[: len(self.tokens)] == self.tokens:
            return len(self.tokens)
        at = self._mark.length
        if at < len(prompt) and prompt[:at] == self.tokens[:at]:
            self._rewind(self._mark)
        else:
            self.clear()
        return len(self.tokens)

    def advance(self, ids: Sequence[int]) -> np.ndarray:
        """Read further tokens and return the last block's output for each; a single one's is valid until the next.

        Shapes: T ids -> [T, D] f32.
        """
        steps = self.advancing(ids)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                hidden: np.ndarray = end.value
                return hidden

    def advancing(self, ids: Sequence[int]) -> Generator[float, None, np.ndarray]:
        """`advance` in steps: yields the share of the work that is done, and returns the same.

        What is begun is finished even where the caller closes it, so that the session keeps what it has read before.
        """
        if self.engine.pressure is not None:
            self.engine.pressure.relieve()
        if self.engine.crowd is not None and (count := self.engine.crowd.threads(len(ids))) != threads():
            set_threads(count)
        decoder, closed = self.engine.decoder, False
        if len(ids) > 1:
            self._workspace = TokenWorkspace()  # a prompt's arrays take the memory that the old one's took
        workspace = self._workspace if len(ids) == 1 else NEW
        workspace.rewind(0)
        try:
            x = decoder.embedding(np.asarray(ids, np.int64), workspace)
            for done in decoder.steps(x, self._caches, workspace):
                try:
                    if not closed:
                        yield done / len(decoder.blocks)
                except GeneratorExit:
                    closed = True
        except BaseException:
            # Interrupted between layers, some caches have moved on and some have not: only the start is consistent.
            self.clear()
            raise
        self.tokens.extend(ids)
        return x

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """Those of the last of the tokens, valid until the next is read.

        Shapes: hidden [T, D] f32 -> [V] f32.
        """
        row: np.ndarray = self.engine.decoder.logits(hidden[-1:], self._workspace)[0]
        return row

    def mark(self, length: int) -> None:
        """Remember the place after `length` tokens for a later `sync`, instead of the last one.

        It must be the present one unless the session is `cuttable`.
        """
        assert self.cuttable or length == len(self.tokens)
        self._mark = self._marked(length)

    def clear(self) -> None:
        """Forget everything."""
        self.tokens = []
        for cache in self._caches:
            cache.clear()
        self._mark = self._marked(0)

    @property
    def bytes(self) -> int:
        """Memory held by the caches."""
        return sum(cache.bytes for cache in self._caches)

    def _marked(self, length: int) -> _Mark:
        return _Mark(length, [cache.mark(length) for cache in self._caches])

    def _rewind(self, mark: _Mark) -> None:
        for cache, at in zip(self._caches, mark.caches, strict=True):
            cache.rewind(at)
        del self.tokens[mark.length :]
