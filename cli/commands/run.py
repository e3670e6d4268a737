"""`moe run`: one prompt, one answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output
from cli.answer import WARMING

if TYPE_CHECKING:
    from cpu_runtime.engine import Engine
    from cpu_runtime.events import Event
    from cpu_runtime.sampling import SamplingParams
    from cpu_runtime.text.tokenizer import IdsOnly, Tokenizer


def run(
    model: Annotated[str, typer.Argument(help="A name in the store, or a folder.")],
    prompt: Annotated[str | None, typer.Argument(help="The question; what comes on stdin is put before it.")] = None,
    json: options.Json = False,
    tokens: Annotated[Path | None, typer.Option("--tokens", help="A JSON list of ids in place of a prompt.")] = None,
    tools: Annotated[Path | None, typer.Option("--tools", help="A JSON list of tools that the model may call.")] = None,
    system: options.System = None,
    think: options.Think = None,
    thinking: options.Thinking = False,
    temp: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    ctx: options.Context = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    verify: options.Verify = False,
    mirror: options.Mirror = None,
) -> None:
    """Answer one prompt on stdout and exit.

    --json prints the answer with its tool calls, tokens, usage and timings.

    Tools are described as in OpenAI's API. A call is shown, not carried out.
    """
    from cli import byte_size, store
    from cli.answer import show, shows_thinking
    from cli.token_file import read_tokens
    from cli.tools_file import read_tools
    from cpu_runtime import Engine
    from quant.errors import EXIT_INTERRUPTED, UsageError

    if tokens and prompt is not None:
        raise UsageError("--tokens takes the place of the prompt: give one of them")
    if tokens and tools:
        raise UsageError("--tools goes with a prompt, which --tokens takes the place of")
    ids = read_tokens(tokens) if tokens else None
    offered = read_tools(tools) if tools else []
    question = None if ids else question_from(prompt)
    most = byte_size.parse("--memory", memory) if memory is not None else None
    with Engine.open(
        store.find(model), threads=threads, context=ctx, memory_bytes=most, verify=verify, mirror=mirror
    ) as engine:
        with output.busy(WARMING):
            engine.warm_up()
        params = options.sampling(
            engine.defaults,
            temperature=temp, top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty,
            presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, seed=seed,
            max_tokens=max_tokens, stop=stop,
        )  # fmt: skip
        if ids:
            events = engine.session().generate(ids, params, tokenizer=_tokenizer(engine))
        else:
            assert question is not None
            events = _ask(engine, question, params, system, think, offered)
        answer = show(events, text=not json, thinking=shows_thinking(thinking))
        if answer.done is None:
            raise typer.Exit(EXIT_INTERRUPTED)
        if json:
            output.as_json({"model": engine.name, **answer.to_json()})
        elif sys.stdout.isatty():
            output.say(answer.statistics())


def _ask(
    engine: Engine,
    question: str,
    params: SamplingParams,
    system: str | None,
    think: bool | None,
    tools: list[dict[str, Any]],
) -> Iterator[Event]:
    from cli.conversation import Conversation

    return Conversation(engine, params, system=system, thinking=think, tools=tools).ask(question)


def _tokenizer(engine: Engine) -> Tokenizer | IdsOnly:
    """The model's; given ids, one that came without can still go on from them."""
    from cpu_runtime.text.tokenizer import FILES, IdsOnly, find

    if find(engine.model.path):
        return engine.tokenizer
    output.say(f"the model has no {' or '.join(FILES)}: the answer is ids only")
    return IdsOnly(engine.model.path)


def question_from(prompt: str | None) -> str:
    """The prompt, with what comes on stdin before it; raises UsageError where there is neither."""
    from quant.errors import UsageError

    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    parts = [part for part in (piped, prompt) if part]
    if not parts:
        raise UsageError("there is no prompt", hint='moe run MODEL "your question"; moe chat MODEL to talk')
    return "\n\n".join(parts)
