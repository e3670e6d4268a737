"""From a prompt to an answer: prefill in chunks, then one token at a time, as a stream of events."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from time import perf_counter

import numpy as np

from cpu_runtime.events import Done, Event, FinishReason, Piece, Prefill, Timings, Usage
from cpu_runtime.sampling import Sampler, SamplingParams
from cpu_runtime.session import PREFILL_CHUNK, Session
from cpu_runtime.text.channels import ChannelSplitter
from cpu_runtime.text.stops import StopStrings
from cpu_runtime.text.tokenizer import IdsOnly, StreamDecoder, Tokenizer


def generate(
    session: Session,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    tokenizer: Tokenizer | IdsOnly,
    *,
    in_reasoning: bool,
    stable: int,
) -> Iterator[Event]:
    """The events of one answer; see `Session.generate`."""
    engine = session.engine
    engine.check(prompt_ids)
    started = perf_counter()
    cached = session.sync(prompt_ids)
    hidden = yield from _prefill(session, prompt_ids, cached, stable)
    prefilled = perf_counter()

    text = _TextStream(tokenizer, in_reasoning, params.stop)
    sampler = Sampler(params, engine.vocab_size)
    room = engine.context - len(prompt_ids)
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    new: list[int] = []
    finish_reason: FinishReason = "length"
    while len(new) < limit:
        token = sampler.next(engine.decoder.logits(hidden[-1:])[0], session.tokens)
        new.append(token)
        if token in tokenizer.stop_ids:
            finish_reason = "stop"
            break
        yield from text.feed(token)
        if text.stopped:
            finish_reason = "stop"
            break
        if len(new) < limit:
            hidden = session.advance([token])
    yield from text.finish()
    yield Done(
        finish_reason=finish_reason,
        token_ids=new,
        usage=Usage(len(prompt_ids), cached, len(new), text.reasoning_tokens),
        timings=Timings(prefilled - started, perf_counter() - prefilled, len(prompt_ids) - cached, len(new)),
        seed=sampler.seed,
    )


def _prefill(
    session: Session, prompt_ids: Sequence[int], cached: int, stable: int
) -> Generator[Prefill, None, np.ndarray]:
    """Report progress; return the last block's output for the tokens of the last chunk."""
    total, at = len(prompt_ids), cached
    hidden = np.empty(0, np.float32)
    yield Prefill(0, total - cached, cached)
    while at < total:
        end = min(at + PREFILL_CHUNK, total)
        if at < stable < end:
            end = stable
        hidden = session.advance(prompt_ids[at:end])
        at = end
        if at == stable:
            session.mark()
        yield Prefill(at - cached, total - cached, cached)
    return hidden


class _TextStream:
    """Token ids in, pieces of reasoning and content out."""

    def __init__(self, tokenizer: Tokenizer | IdsOnly, in_reasoning: bool, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)
        self._splitter = ChannelSplitter(in_reasoning)
        self._in_reasoning = in_reasoning
        self.reasoning_tokens = 0
        self.stopped = False

    def feed(self, token: int) -> Iterator[Piece]:
        """The pieces that became certain with this token."""
        shown, self.stopped = self._stops.feed(self._decoder.feed(token))
        for channel, text in self._splitter.feed(shown):
            self._in_reasoning = channel == "reasoning"
            yield Piece(text, channel, token)
        self.reasoning_tokens += self._in_reasoning

    def finish(self) -> Iterator[Piece]:
        """What was held back until the end."""
        rest = "" if self.stopped else self._stops.feed(self._decoder.finish())[0] + self._stops.finish()
        for channel, text in [*self._splitter.feed(rest), *self._splitter.finish()]:
            yield Piece(text, channel, None)
