"""Holds the trainer's model to transformers: the shipped weights in both must give the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from export import PREFIX
from model import DemoModel, Shape
from safetensors.torch import load_file
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

CHECKPOINT = Path(__file__).parents[2] / "cli" / "demo"
TOKENS = 150  # more than two chunks of the delta rule
TOLERANCE = 1e-3  # of the spread of the logits


@torch.no_grad()
def main() -> None:
    text = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    weights = {}
    for shard in sorted(CHECKPOINT.glob("*.safetensors")):
        weights |= {name: tensor.float() for name, tensor in load_file(shard).items()}

    ours = DemoModel(Shape(vocab=text["vocab_size"])).eval()
    ours.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in weights.items()})
    theirs = Qwen3_5MoeForCausalLM(Qwen3_5MoeTextConfig(**text)).float().eval()
    theirs.load_state_dict({name.replace("language_model.", ""): tensor for name, tensor in weights.items()})

    ids = torch.randint(text["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = theirs(ids, use_cache=False).logits
    error = (ours(ids) - expected).abs().max() / (expected.max() - expected.min())
    print(f"largest difference: {error:.1e} of the spread of the logits")
    assert error < TOLERANCE


if __name__ == "__main__":
    main()
