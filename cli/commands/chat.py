"""`moe chat`: talk to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options, output
from cli.answer import WARMING

if TYPE_CHECKING:
    from cpu_runtime.engine import Engine


def chat(
    model: Annotated[str | None, typer.Argument(help="A name or a folder; the newest if left out.")] = None,
    resume: Annotated[bool, typer.Option("--continue", help="Go on with the latest conversation.")] = False,
    session: Annotated[str | None, typer.Option("--session", help="Go on with a saved conversation.")] = None,
    system: options.System = None,
    think: options.Think = None,
    temp: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    ctx: options.Context = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    verify: options.Verify = False,
    mirror: options.Mirror = None,
) -> None:
    """Talk to a model at the terminal.

    /help there lists the commands.
    """
    from cli import byte_size, sessions, store

    name = session
    if resume and not name:
        saved = sessions.names()
        name = saved[0] if saved else None
    start(
        store.find(model) if model else store.newest(),
        session=name,
        system=system,
        think=think,
        ctx=ctx,
        threads=threads,
        memory_bytes=byte_size.parse("--memory", memory) if memory is not None else None,
        verify=verify,
        mirror=mirror,
        temperature=temp,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        max_tokens=max_tokens,
    )


def start(
    folder: Path,
    *,
    question: str | None = None,
    session: str | None = None,
    system: str | None = None,
    think: bool | None = None,
    ctx: int | None = None,
    threads: int | None = None,
    memory_bytes: int | None = None,
    verify: bool = False,
    mirror: Path | None = None,
    **sampling: float | None,
) -> None:
    """Open a model and talk; where there is no terminal, or a question is given, answer that and return."""
    from cli import sessions
    from cli.answer import show, shows_thinking
    from cli.commands.run import question_from
    from cli.conversation import Conversation
    from cli.repl import Repl, at_a_terminal
    from cpu_runtime import Engine
    from quant.errors import EXIT_INTERRUPTED

    if question is None and not at_a_terminal():
        question = question_from(None)
    with Engine.open(
        folder, threads=threads, context=ctx, memory_bytes=memory_bytes, verify=verify, mirror=mirror
    ) as engine:
        output.say(f"{engine.name}: {_placed(engine)}, context {engine.context} tokens")
        with output.busy(WARMING):
            engine.warm_up()
        params = options.sampling(engine.defaults, **sampling)
        conversation = Conversation(engine, params, system=system, thinking=think)
        if session:
            conversation.replace(sessions.load(session))
        if question is None:
            Repl(conversation, session).run()
            return
        answer = show(conversation.ask(question), thinking=shows_thinking(False))
        output.say(answer.statistics())
        if answer.done is None:
            raise typer.Exit(EXIT_INTERRUPTED)


def _placed(engine: Engine) -> str:
    """Where the weights are, in a few words."""
    kept = engine.kept_experts_bytes
    if kept is None:
        return f"{output.size(engine.mapped_bytes)} mapped"
    return f"room for {output.size(kept)} of {output.size(engine.division.experts)} of experts in memory"
