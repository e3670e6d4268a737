"""The table of commands; each lives in a module of its own and imports what is heavy only when it runs."""

from __future__ import annotations

import typer

from cli.commands.bench import bench
from cli.commands.calibrate import calibrate
from cli.commands.chat import chat
from cli.commands.demo import demo
from cli.commands.evaluate import app as evaluate
from cli.commands.fit import fit
from cli.commands.list_models import list_models
from cli.commands.pull import pull
from cli.commands.quantize import quantize
from cli.commands.remove import remove
from cli.commands.run import run
from cli.commands.show import show

app = typer.Typer(
    name="moe",
    help="Frontier open-weight Mixture-of-Experts models on a desktop or laptop with no GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help needs a tenth of a second more to start
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"moe {version('moe-cpu')}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Frontier open-weight Mixture-of-Experts models on a desktop or laptop with no GPU."""


app.command("demo")(demo)
app.command("pull")(pull)
app.command("quantize")(quantize)
app.command("calibrate")(calibrate)
app.command("chat")(chat)
app.command("run")(run)
app.command("list")(list_models)
app.command("ls", hidden=True)(list_models)
app.command("show")(show)
app.command("rm")(remove)
app.command("fit")(fit)
app.command("bench")(bench)
app.add_typer(evaluate, name="eval")
