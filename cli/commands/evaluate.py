"""`moe eval`: numbers about a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options, output

app = typer.Typer(help="Measure a model.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure a model."""


@app.command("logits")
def logits(
    model: Annotated[str, typer.Argument(help="A name in the store, or a folder.")],
    tokens: Annotated[Path, typer.Option("--tokens", help="A JSON list of token ids.")],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write.")],
    threads: options.Threads = None,
) -> None:
    """Write the logits after each token.

    float32 [T, V]; row t has read ids 0 to t.
    """
    import os

    import numpy as np

    from cli import store
    from cli.token_file import read_tokens
    from cpu_runtime import Engine
    from quant.errors import ResourceError

    ids = read_tokens(tokens)
    with Engine.open(store.find(model), threads=threads) as engine:
        temporary = out.with_name(f"{out.name}.{os.getpid()}.tmp")
        try:
            file = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(ids), engine.vocab_size))
            at = 0
            for rows in engine.logits(ids):
                file[at : at + len(rows)] = rows
                at += len(rows)
            file.flush()
            temporary.replace(out)
        except OSError as error:
            raise ResourceError(f"can't write {out}: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)
    output.line(str(out))
