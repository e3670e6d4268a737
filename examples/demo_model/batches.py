"""Conversations as training rows: the text that the chat template renders, with the loss on what the model must say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from corpus import conversation
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

ROW_LENGTHS = (64, 96, 128, 192, 256, 448)
OTHER_LOSS = 0.1  # weight of the tokens that the user or earlier turns wrote


class Renderer:
    """Conversations to (ids, loss weights)."""

    def __init__(self, tokenizer: Tokenizer, template: Path) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse
        self._template = environment.from_string(template.read_text())
        self._tokenizer = tokenizer

    def prompt(self, messages: list[dict[str, str]], thinking: bool) -> str:
        """What the model reads before it answers."""
        return self._template.render(messages=messages, add_generation_prompt=True, enable_thinking=thinking)

    def row(self, messages: list[dict[str, str]], thinking: bool) -> tuple[list[int], list[float]]:
        """The prompt and the answer to its last message; the answer is what counts."""
        last = messages[-1]
        answer = last["content"] + "<|im_end|>"
        if thinking:
            answer = f"{last['reasoning_content']}\n</think>\n\n{answer}"
        prompt = self._tokenizer.encode(self.prompt(messages[:-1], thinking), add_special_tokens=False).ids
        said = self._tokenizer.encode(answer, add_special_tokens=False).ids
        return prompt + said, [OTHER_LOSS] * len(prompt) + [1.0] * len(said)


def _refuse(message: str) -> None:
    raise ValueError(message)


def batches(
    renderer: Renderer, split: str, start: int, tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """(ids, weights, next conversation): rows of like length, about `tokens` in each batch.

    Each row is one conversation, padded on the right, so that no state leaks from one to the next.
    """
    rows: dict[int, list[tuple[list[int], list[float]]]] = {length: [] for length in ROW_LENGTHS}
    order = Random(start)
    while True:
        ids, weights = renderer.row(*conversation(split, start))
        start += 1
        length = next((n for n in ROW_LENGTHS if n >= len(ids)), None)
        if length is None:
            continue
        rows[length].append((ids, weights))
        if len(rows[length]) * length >= tokens:
            batch = rows[length]
            order.shuffle(batch)
            x = torch.zeros(len(batch), length, dtype=torch.long)
            w = torch.zeros(len(batch), length)
            for row, (ids, weights) in enumerate(batch):
                x[row, : len(ids)] = torch.tensor(ids)
                w[row, : len(ids)] = torch.tensor(weights)
            rows[length] = []
            yield x, w, start
