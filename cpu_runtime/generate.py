"""From a prompt to an answer: prefill in chunks, then one token at a time, as a stream of events."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from time import perf_counter
from typing import Any

import numpy as np

from cpu_runtime.events import Done, Event, FinishReason, Piece, Prefill, Timings, ToolCall, Usage
from cpu_runtime.sampling import Sampler, SamplingParams
from cpu_runtime.session import Session
from cpu_runtime.text.channels import ChannelSplitter, Part
from cpu_runtime.text.messages import checked_tools
from cpu_runtime.text.stops import StopStrings
from cpu_runtime.text.tokenizer import IdsOnly, StreamDecoder, Tokenizer

_TELLS = 0.5  # seconds between two reports of progress inside a chunk


def generate(
    session: Session,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    tokenizer: Tokenizer | IdsOnly,
    *,
    in_reasoning: bool,
    stable: int,
    tools: Sequence[dict[str, Any]],
) -> Iterator[Event]:
    """The events of one answer; see `Session.generate`."""
    engine = session.engine
    engine.check(prompt_ids)
    splitter = ChannelSplitter(in_reasoning, engine.syntax, checked_tools(tools))
    started = perf_counter()
    cached = session.sync(prompt_ids)
    hidden = yield from _prefill(session, prompt_ids, cached, stable)
    prefilled = perf_counter()

    text = _TextStream(tokenizer, splitter, params.stop)
    sampler = Sampler(params, engine.vocab_size)
    room = engine.context - len(prompt_ids)
    limit = room if params.max_tokens is None else min(params.max_tokens, room)
    new: list[int] = []
    finish_reason: FinishReason = "length"
    ended = False  # by the model itself
    while len(new) < limit:
        token = sampler.next(session.logits(hidden), session.tokens)
        new.append(token)
        if token in tokenizer.stop_ids:
            finish_reason, ended = "stop", True
            break
        yield from text.feed(token)
        if text.stopped:
            finish_reason = "stop"
            break
        if len(new) < limit:
            hidden = session.advance([token])
    yield from text.finish()
    yield Done(
        finish_reason="tool_calls" if ended and text.called else finish_reason,
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
    started = told = perf_counter()
    yield Prefill(0, total - cached, cached)
    while at < total:
        end = min(at + session.engine.chunk, total)
        if at < stable < end and not session.cuttable:  # else it is read once: another chunk reads experts again
            end = stable
        with closing(session.advancing(prompt_ids[at:end])) as steps:
            while True:
                try:
                    share = next(steps)
                except StopIteration as finished:
                    hidden = finished.value
                    break
                if share < 1 and perf_counter() - told > _TELLS:
                    told = perf_counter()
                    yield Prefill(at - cached + int(share * (end - at)), total - cached, cached, told - started)
        if at < stable <= end:
            session.mark(stable)
        at = end
        told = perf_counter()
        yield Prefill(at - cached, total - cached, cached, told - started)
    return hidden


class _TextStream:
    """Token ids in, pieces of reasoning and content and tool calls out."""

    def __init__(self, tokenizer: Tokenizer | IdsOnly, splitter: ChannelSplitter, stops: Sequence[str]) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)
        self._splitter = splitter
        self.reasoning_tokens = 0
        self.stopped = False
        self.called = False

    def feed(self, token: int) -> Iterator[Event]:
        """What became certain with this token."""
        shown, self.stopped = self._stops.feed(self._decoder.feed(token))
        yield from self._events(self._splitter.feed(shown), token)
        self.reasoning_tokens += self._splitter.in_reasoning

    def finish(self) -> Iterator[Event]:
        """What was held back until the end."""
        rest = "" if self.stopped else self._stops.feed(self._decoder.finish())[0] + self._stops.finish()
        yield from self._events([*self._splitter.feed(rest), *self._splitter.finish()], None)

    def _events(self, parts: Iterable[Part], token: int | None) -> Iterator[Event]:
        for part in parts:
            if isinstance(part, ToolCall):
                self.called = True
                yield part
            else:
                channel, text = part
                yield Piece(text, channel, token)
