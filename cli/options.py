"""Options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cpu_runtime.sampling import SamplingParams

Temperature = Annotated[float | None, typer.Option("--temp", "--temperature", help="0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Choose among the k likeliest; 0 is off.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Choose among the likeliest that sum to p.")]
MinP = Annotated[float | None, typer.Option("--min-p", help="Drop what is less than this share of the likeliest.")]
RepeatPenalty = Annotated[float | None, typer.Option("--repeat-penalty", help="Divide logits of recent tokens.")]
PresencePenalty = Annotated[float | None, typer.Option("--presence-penalty", help="Subtracted from recent tokens.")]
FrequencyPenalty = Annotated[float | None, typer.Option("--frequency-penalty", help="The same, for each occurrence.")]
Seed = Annotated[int | None, typer.Option("--seed", help="The same seed draws the same text.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Stop after this many tokens.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="Stop where this text appears; repeatable.")]
Context = Annotated[int | None, typer.Option("--ctx", "-c", help="Context window in tokens.")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", help="Threads; else one a core that is free.")]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Most memory to use: 12G, 800M; what is free if left out.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Compare each expert's checksum when it is first read.")]
Mirror = Annotated[
    Path | None, typer.Option("--mirror", help="A copy of the model on another drive, to read experts from both.")
]
System = Annotated[str | None, typer.Option("--system", "-s", help="System message.")]
Think = Annotated[bool | None, typer.Option("--think/--no-think", help="Let the model think first, or not.")]
Thinking = Annotated[bool, typer.Option("--thinking", help="Print the thinking even where output is not a terminal.")]
BitsPerWeight = Annotated[
    float | None, typer.Option("--bpw", help="No recipe, but the best within so many bits a weight.")
]
Size = Annotated[str | None, typer.Option("--size", help="No recipe, but the best within so many bytes: 180G.")]
Stats = Annotated[
    Path | None, typer.Option("--stats", help="Statistics of `moe calibrate`, by which codes are chosen.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def sampling(defaults: SamplingParams, **given: Any) -> SamplingParams:
    """The model's own defaults, overridden by what was given on the command line."""
    changes = {name: value for name, value in given.items() if value is not None}
    if "stop" in changes:
        changes["stop"] = tuple(changes["stop"])
    return defaults.replace(**changes)
