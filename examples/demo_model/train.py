"""Trains the demo model: `python train.py --minutes 75 --out run`; started again, it goes on where it was stopped.

The learning rate follows the clock, not the steps, so that a run of any length on any machine ends with a cool-down.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from batches import Renderer, batches
from model import DemoModel, Shape
from optimiser import optimisers
from tokenizer import train_tokenizer
from tokenizers import Tokenizer

TOKENS_A_BATCH = 4096
BALANCE_LOSS = 0.01
WARM_UP, COOL_DOWN = 0.02, 0.45  # shares of the run
TEMPLATE = Path(__file__).parent / "chat_template.jinja"


def loss_of(model: DemoModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token, weighted."""
    logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()


def rate(progress: float) -> float:
    """Share of the full learning rate at `progress` 0 to 1: up, level, down to 2%."""
    return min(1.0, progress / WARM_UP, max(0.02, (1 - progress) / COOL_DOWN))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--out", type=Path, default=Path("run"))
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    torch.manual_seed(0)

    words = options.out / "tokenizer.json"
    if not words.exists():
        train_tokenizer().save(str(words))
    tokenizer = Tokenizer.from_file(str(words))
    model = DemoModel(Shape(vocab=-(-tokenizer.get_vocab_size() // 64) * 64))
    optimiser = optimisers(model)
    full_rates = [o.param_groups[0]["lr"] for o in optimiser]
    step, trained, number, seconds = 0, 0, 0, 0.0
    saved = options.out / "state.pt"
    if saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        for o, values in zip(optimiser, state["optimisers"], strict=True):
            o.load_state_dict(values)
        step, trained, number, seconds = state["counters"]
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, step {step}", flush=True)

    before = time.monotonic() - seconds
    running = 0.0
    for ids, weights, next_number in batches(Renderer(tokenizer, TEMPLATE), "train", number, TOKENS_A_BATCH):
        seconds = time.monotonic() - before
        progress = min(1.0, seconds / (60 * options.minutes))
        for o, full in zip(optimiser, full_rates, strict=True):
            o.param_groups[0]["lr"] = full * rate(progress)
        loss = loss_of(model, ids, weights)
        (loss + BALANCE_LOSS * model.balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimiser:
            o.step()
            o.zero_grad(set_to_none=True)
        step, trained = step + 1, trained + int((weights > 0).sum())
        running = 0.95 * running + 0.05 * loss.item() if step > 1 else loss.item()
        if step % 20 == 0:
            print(f"{progress:6.1%} step {step} {trained / 1e6:.2f} M tokens {trained / seconds:.0f}/s loss {running:.3f} "
                  f"balance {model.balance.item():.2f}", flush=True)  # fmt: skip
        if step % 100 == 0 or progress >= 1:
            state = {"model": model.state_dict(), "optimisers": [o.state_dict() for o in optimiser],
                     "counters": (step, trained, next_number, seconds)}  # fmt: skip
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
        if progress >= 1:
            return


if __name__ == "__main__":
    main()
