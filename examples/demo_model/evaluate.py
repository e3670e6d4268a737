"""The numbers of the model's card: `python evaluate.py` quantizes the shipped checkpoint by each recipe and measures it.

Perplexity and divergence are over the answers of held-out conversations; additions are pairs of numbers that training
never saw in either order, asked in one of the ways it knows, answered greedily.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from arithmetic import ASK_SUM, held_out
from corpus import conversation

from cpu_runtime import Done, Engine, Piece, SamplingParams, plan_for
from quant.checkpoint import Checkpoint
from quant.convert import convert
from quant.recipe import load_recipe

CHECKPOINT = Path(__file__).parents[2] / "cli" / "demo"
LONGEST_ANSWER = 200  # tokens


@dataclass
class Scores:
    """What one recipe achieves; accuracies are shares of 1."""

    bytes: int
    perplexity: float
    divergence: float
    thinking: float
    direct: float
    stopped: float


def texts(engine: Engine, count: int) -> list[tuple[list[int], int]]:
    """(ids, where the last answer starts) of held-out conversations."""
    found = []
    for number in range(count):
        messages, thinking = conversation("held-out", number)
        start = engine.chat.prompt(messages[:-1], thinking=thinking).ids
        answer = messages[-1]["content"] + "<|im_end|>"
        if thinking:
            answer = f"{messages[-1]['reasoning_content']}\n</think>\n\n{answer}"
        found.append((start + engine.tokenizer.encode(answer), len(start)))
    return found


def log_probabilities(engine: Engine, ids: list[int], start: int) -> np.ndarray:
    """Of every token at each place of the answer: [T, V] f64."""
    logits = np.concatenate(list(engine.logits(ids)))[start - 1 : -1].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def sums(count: int) -> list[tuple[str, int]]:
    """(question, result) of held-out additions; each result belongs to a pair of its own."""
    random = Random(0)
    pairs = [(a, b) for a in range(100) for b in range(100) if held_out(a, b)]
    chosen = random.sample(pairs, count)
    return [(random.choice(ASK_SUM).format(a=a, b=b), a + b) for a, b in chosen]


def answer(engine: Engine, question: str, thinking: bool) -> tuple[str, bool]:
    """The answer without its thinking, and whether it ended by itself."""
    prompt = engine.chat.prompt([{"role": "user", "content": question}], thinking=thinking)
    params = SamplingParams(temperature=0, max_tokens=LONGEST_ANSWER)
    text, stopped = "", False
    for event in engine.session().generate(prompt.ids, params, in_reasoning=prompt.in_reasoning):
        if isinstance(event, Piece) and event.channel == "content":
            text += event.text
        elif isinstance(event, Done):
            stopped = event.finish_reason == "stop"
    return text, stopped


def accuracy(engine: Engine, asked: list[tuple[str, int]], thinking: bool) -> tuple[float, float]:
    """(share whose last number is the result, share that stopped by itself)."""
    right = stopped = 0
    for question, result in asked:
        text, ended = answer(engine, question, thinking)
        # "You have 12 apples now." holds the result alone; "5 + 7 = 12." holds it last.
        numbers = re.findall(r"\d+", text)
        right += bool(numbers) and int(numbers[-1]) == result
        stopped += ended
    return right / len(asked), stopped / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--sums", type=int, default=300)
    options = parser.parse_args()
    reference: list[np.ndarray] = []
    print("| recipe | size | perplexity | KL from bf16 | sums, thinking | sums, direct | stops by itself |")
    print("|---|---|---|---|---|---|---|")
    for recipe in ("bf16", "int8", "int4"):
        with tempfile.TemporaryDirectory() as scratch, Checkpoint.open(CHECKPOINT) as source:
            plan = plan_for(source.config, source.names)
            folder = convert(source, plan, load_recipe(recipe), Path(scratch) / recipe)
            with Engine.open(folder) as engine:
                s = measure(engine, options.texts, options.sums, reference)
        print(
            f"| {recipe} | {s.bytes / 1e6:.1f} MB | {s.perplexity:.4f} | {s.divergence:.5f} | {s.thinking:.1%} "
            f"| {s.direct:.1%} | {s.stopped:.1%} |",
            flush=True,
        )


def measure(engine: Engine, n_texts: int, n_sums: int, reference: list[np.ndarray]) -> Scores:
    """Scores of one model; the first to be measured becomes the reference."""
    loss = divergence = places = 0.0
    for number, (ids, start) in enumerate(texts(engine, n_texts)):
        found = log_probabilities(engine, ids, start)
        if len(reference) <= number:
            reference.append(found)
        loss -= found[np.arange(len(found)), ids[start:]].sum()
        divergence += (np.exp(reference[number]) * (reference[number] - found)).sum()
        places += len(found)
    asked = sums(n_sums)
    thinking, stopped = accuracy(engine, asked, thinking=True)
    direct, stopped_too = accuracy(engine, asked, thinking=False)
    return Scores(
        engine.mapped_bytes,
        float(np.exp(loss / places)),
        divergence / places,
        thinking,
        direct,
        (stopped + stopped_too) / 2,
    )


if __name__ == "__main__":
    main()
