"""Writes a trained run as a checkpoint in the published layout: `python export.py --run run --to ../../cli/demo`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import DemoModel, Shape
from safetensors.torch import save_file
from tokenizers import Tokenizer

FLOAT32 = ("A_log", "linear_attn.norm.weight")  # as the published checkpoints have them
SHARDS = 2
PREFIX = "model.language_model."


def text_config(s: Shape) -> dict[str, object]:
    """The shape under the published keys."""
    kinds = ["full_attention" if (n + 1) % s.full_interval == 0 else "linear_attention" for n in range(s.layers)]
    return {
        "model_type": "qwen3_5_moe_text", "vocab_size": s.vocab, "hidden_size": s.hidden, "num_hidden_layers": s.layers,
        "layer_types": kinds, "full_attention_interval": s.full_interval, "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads, "head_dim": s.head_size, "attn_output_gate": True, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": s.theta, "partial_rotary_factor": s.rotary / s.head_size,
                            "mrope_interleaved": True, "mrope_section": [s.rotary // 2 - 4, 2, 2]},
        "linear_num_key_heads": s.key_heads, "linear_num_value_heads": s.value_heads, "linear_key_head_dim": s.key_size,
        "linear_value_head_dim": s.value_size, "linear_conv_kernel_dim": s.taps, "mamba_ssm_dtype": "float32",
        "num_experts": s.experts, "num_experts_per_tok": s.active, "moe_intermediate_size": s.expert_width,
        "shared_expert_intermediate_size": s.shared_width, "mlp_only_layers": [], "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_position_embeddings": s.context, "tie_word_embeddings": False,
    }  # fmt: skip


def tensors(model: DemoModel) -> dict[str, torch.Tensor]:
    """The state dict under the published names and in the published dtypes."""
    out = {}
    for name, value in model.state_dict().items():
        published = name if name.startswith("lm_head") else PREFIX + name
        out[published] = (value.float() if name.endswith(FLOAT32) else value.bfloat16()).contiguous()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("run"))
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[2] / "cli" / "demo")
    options = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(options.run / "tokenizer.json"))
    model = DemoModel(Shape(vocab=-(-tokenizer.get_vocab_size() // 64) * 64))
    model.load_state_dict(torch.load(options.run / "state.pt")["model"])
    ids = {token: tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}

    options.to.mkdir(parents=True, exist_ok=True)
    everything = tensors(model)
    half = sum(t.nbytes for t in everything.values()) / SHARDS
    weight_map, shard, filled = {}, 1, 0
    for name, tensor in everything.items():
        if filled > half * shard and shard < SHARDS:
            shard += 1
        filled += tensor.nbytes
        weight_map[name] = f"model.safetensors-{shard:05d}-of-{SHARDS:05d}.safetensors"
    for file in sorted(set(weight_map.values())):
        save_file({n: everything[n] for n, f in weight_map.items() if f == file}, options.to / file, {"format": "pt"})
    documents = {
        "model.safetensors.index.json": {"metadata": {"total_size": filled}, "weight_map": weight_map},
        "config.json": {
            "architectures": ["Qwen3_5MoeForConditionalGeneration"],
            "model_type": "qwen3_5_moe",
            "text_config": {**text_config(model.shape), "eos_token_id": ids["<|endoftext|>"]},
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
        "generation_config.json": {
            "do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        },
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                  "pad_token": "<|endoftext|>", "model_max_length": model.shape.context},
    }  # fmt: skip
    for name, document in documents.items():
        (options.to / name).write_text(json.dumps(document, indent=1) + "\n")
    shutil.copy(options.run / "tokenizer.json", options.to)
    shutil.copy(Path(__file__).parent / "chat_template.jinja", options.to)
    size = sum(path.stat().st_size for path in options.to.iterdir())
    print(f"{options.to}: {size / 1e6:.1f} MB in {len(list(options.to.iterdir()))} files")


if __name__ == "__main__":
    main()
