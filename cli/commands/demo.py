"""`moe demo`: the small model that comes with the package, through the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options, output

CHECKPOINT = Path(__file__).parent.parent / "demo"
NAME = "demo"
QUESTION = "Who are you?"


def demo(
    prompt: Annotated[str | None, typer.Argument(help="A question; without one, a chat opens.")] = None,
    think: options.Think = None,
    temp: options.Temperature = None,
    seed: options.Seed = None,
) -> None:
    """Talk to the small model that comes with moe.

    It is quantized to int4 on this machine, once, then run like any other.
    """
    from cli.commands.chat import start
    from cli.repl import at_a_terminal

    if prompt is None and not at_a_terminal():
        prompt = QUESTION
        output.say(f">>> {prompt}")
    start(prepare(), question=prompt, think=think, temperature=temp, seed=seed)


def prepare() -> Path:
    """The quantized demo model in the store, made where it is missing or was made from another version's."""
    from cli import store
    from cpu_runtime import plan_for
    from quant.checkpoint import Checkpoint
    from quant.convert import convert
    from quant.recipe import load_recipe

    origin = f"moe demo {_fingerprint()}"
    target = store.place(NAME)
    for model in store.stored():
        if model.name == NAME and model.complete:
            if model.manifest.get("source", {}).get("name") == origin:
                return target
            store.delete(model)
    with Checkpoint.open(CHECKPOINT) as checkpoint:
        plan = plan_for(checkpoint.config, checkpoint.names)
        with output.busy("quantizing the demo model to int4 (once)"):
            convert(checkpoint, plan, load_recipe("int4"), target, source=origin)
    output.say(f"quantized the demo model to int4: {target}")
    return target


def _fingerprint() -> str:
    """Tells one version of the shipped checkpoint from another."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(CHECKPOINT.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
