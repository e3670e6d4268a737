"""`moe eval`: numbers about a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output

if TYPE_CHECKING:
    import numpy as np

    from cpu_runtime import Engine
    from cpu_runtime.quality import Estimate

Model = Annotated[str, typer.Argument(help="A name in the store, or a folder.")]
Text = Annotated[Path | None, typer.Option("--text", help="The text to predict, UTF-8.")]
Tokens = Annotated[Path | None, typer.Option("--tokens", help="A JSON list of token ids in place of a text.")]
Window = Annotated[int, typer.Option("--ctx", "-c", help="Tokens of a window; the second half of each is scored.")]
Limit = Annotated[int | None, typer.Option("--windows", min=1, help="Read so many windows at most.")]

app = typer.Typer(help="Measure a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure a model."""


@app.command("ppl")
def ppl(
    model: Model,
    text: Text = None,
    tokens: Tokens = None,
    window: Window = 512,
    limit: Limit = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    json: options.Json = False,
) -> None:
    """Perplexity of a text.

    The text is cut into windows that are read independently; what does not fill the last one is left out. Of a window
    of N tokens, those from N/2 + 1 on are scored. The error is one standard error, tokens taken as independent.
    """
    from cli import store
    from cpu_runtime import Engine, quality

    content, folder, most = _content(text, tokens), store.find(model), _memory(memory)
    with Engine.open(folder, threads=threads, context=window, memory_bytes=most) as engine:
        ids = engine.tokenizer.encode(content) if isinstance(content, str) else content
        cut = quality.windows(ids, window, _opening(engine, content))[:limit]
        nats = _each(cut, window, lambda one: quality.surprises(engine, one), _perplexity_so_far)
        found = {"perplexity": quality.perplexity(nats)}
        _print({"model": engine.name, **_facts(cut, window, len(ids), nats.size)}, found, json)


@app.command("kl")
def kl(
    model: Model,
    base: Annotated[str, typer.Option("--base", help="What it is compared with: its source in bf16, say.")],
    text: Text = None,
    tokens: Tokens = None,
    window: Window = 512,
    limit: Limit = None,
    threads: options.Threads = None,
    memory: options.Memory = None,
    json: options.Json = False,
) -> None:
    """How far a model's predictions are from another's.

    KL divergence is of the model from the base, in nats a token; top-1 is how often both find the same token
    likeliest. Windows are those of `moe eval ppl`. Both models are open at once and share memory; either may be larger
    than it. Longer windows let a model beyond memory be read from disk less often.
    """
    from cli import store
    from cpu_runtime import pair, quality

    content, folder, other, most = _content(text, tokens), store.find(model), store.find(base), _memory(memory)
    with pair.opened(folder, other, context=window, threads=threads, memory_bytes=most) as (engine, reference):
        ids = pair.encode(engine, reference, content) if isinstance(content, str) else content
        cut = quality.windows(ids, window, _opening(engine, content))[:limit]
        rows = _each(cut, window, lambda one: quality.comparison(engine, reference, one), _divergence_so_far)
        divergence, expected, surprise, same = rows.T
        found = {
            "kl_mean": quality.mean(divergence),
            "kl_median": quality.quantile(divergence, 0.5),
            "kl_p99": quality.quantile(divergence, 0.99),
            "same_top1": quality.mean(same),
            "perplexity": quality.perplexity(surprise),
            "base_perplexity": quality.perplexity(expected),
            "perplexity_ratio": quality.perplexity(surprise - expected),
        }
        facts = {"model": engine.name, "base": reference.name, **_facts(cut, window, len(ids), len(rows))}
        _print(facts, found, json)


def _content(text: Path | None, tokens: Path | None) -> str | list[int]:
    from cli.text_file import read_text
    from cli.token_file import read_tokens
    from quant.errors import UsageError

    if (text is None) == (tokens is None):
        raise UsageError("give either --text FILE or --tokens FILE")
    return read_text(text) if text is not None else read_tokens(tokens)  # type: ignore[arg-type]


def _memory(memory: str | None) -> int | None:
    from cli import byte_size

    return byte_size.parse("--memory", memory) if memory is not None else None


def _opening(engine: Engine, content: str | list[int]) -> list[int]:
    """What each window begins with; ids are read as they are given."""
    return engine.tokenizer.opening if isinstance(content, str) else []


def _each(cut: list[list[int]], window: int, measured: Any, so_far: Any) -> np.ndarray:
    """The measures of every window, one after another, with progress and what they amount to so far."""
    import numpy as np

    done: list[np.ndarray] = []
    with output.progress("reading", len(cut) * window, amount=lambda n: f"{n:,.0f} tokens") as advance:
        for one in cut:
            done.append(measured(one))
            advance(len(done) * window, so_far(np.concatenate(done)))
    return np.concatenate(done)


def _perplexity_so_far(nats: np.ndarray) -> str:
    from cpu_runtime.quality import perplexity

    return f"perplexity {perplexity(nats).value:.4f}"


def _divergence_so_far(rows: np.ndarray) -> str:
    return f"KL divergence {rows[:, 0].mean():.5f}, same top-1 {rows[:, 3].mean():.1%}"


def _facts(cut: list[list[int]], window: int, tokens: int, scored: int) -> dict[str, Any]:
    return {"window": window, "windows": len(cut), "text_tokens": tokens, "scored_tokens": scored}


_LABELS = {
    "kl_mean": "KL divergence, mean",
    "kl_median": "KL divergence, median",
    "kl_p99": "KL divergence, 99th percentile",
    "same_top1": "same top-1 token",
    "perplexity": "perplexity",
    "base_perplexity": "perplexity of the base",
    "perplexity_ratio": "ratio of perplexities",
}


def _print(facts: dict[str, Any], found: dict[str, Estimate], json: bool) -> None:
    if json:
        output.as_json({**facts, **{name: asdict(estimate) for name, estimate in found.items()}})
        return
    output.say(
        f"{facts['scored_tokens']:,} tokens scored in {facts['windows']} windows of {facts['window']}, "
        f"out of {facts['text_tokens']:,}"
    )
    rows = [[_LABELS[name], *_cells(name, estimate)] for name, estimate in found.items()]
    output.table(["", "VALUE", "STANDARD ERROR"], rows)


def _cells(name: str, estimate: Estimate) -> list[str]:
    if name == "same_top1":
        return [f"{100 * estimate.value:.2f} %", f"{100 * estimate.error:.2f} %"]
    return [f"{estimate.value:.6f}", f"{estimate.error:.6f}"]


@app.command("logits")
def logits(
    model: Model,
    tokens: Annotated[Path, typer.Option("--tokens", help="A JSON list of token ids.")],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write.")],
    threads: options.Threads = None,
) -> None:
    """Write the logits after each token.

    float32 [T, V]; row t has read ids 0 to t.
    """
    import numpy as np

    from cli import store
    from cli.token_file import read_tokens
    from cpu_runtime import Engine
    from quant.writer import FileWriter

    ids = read_tokens(tokens)
    with Engine.open(store.find(model), threads=threads) as engine:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), engine.vocab_size)}
        with FileWriter(out) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for rows in engine.logits(ids):
                file.write(np.ascontiguousarray(rows, "<f4").data.cast("B"))
    output.line(str(out))
