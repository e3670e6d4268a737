"""What llama.cpp calls our families' tensors and config keys: as its own conversion script writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Our names of a layer's tensors, and llama.cpp's.
_ATTENTION = {
    "norm1": "attn_norm.weight",
    "attn.q": "attn_q.weight",
    "attn.k": "attn_k.weight",
    "attn.v": "attn_v.weight",
    "attn.o": "attn_output.weight",
    "attn.q_norm": "attn_q_norm.weight",
    "attn.k_norm": "attn_k_norm.weight",
    "moe.router": "ffn_gate_inp.weight",
}
_MINIMAX_M2 = _ATTENTION | {"norm2": "ffn_norm.weight", "moe.bias": "exp_probs_b.bias"}
_QWEN3_5_MOE = _ATTENTION | {
    "norm2": "post_attention_norm.weight",
    "delta.qkv": "attn_qkv.weight",
    "delta.z": "attn_gate.weight",
    "delta.out": "ssm_out.weight",
    "delta.a": "ssm_alpha.weight",
    "delta.b": "ssm_beta.weight",
    "delta.conv": "ssm_conv1d.weight",
    "delta.A_log": "ssm_a",
    "delta.dt_bias": "ssm_dt.bias",
    "delta.norm": "ssm_norm.weight",
    "moe.shared_gate": "ffn_gate_inp_shexp.weight",
    "moe.shared.gate": "ffn_gate_shexp.weight",
    "moe.shared.up": "ffn_up_shexp.weight",
    "moe.shared.down": "ffn_down_shexp.weight",
}
_TOP = {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}


@dataclass(frozen=True)
class Architecture:
    """`name` is llama.cpp's, `layer` its names of a layer's tensors, `_own` the keys that only this one has."""

    name: str
    layer: dict[str, str]
    _own: Callable[[dict[str, Any]], dict[str, Any]]

    def tensor(self, ours: str) -> str:
        """The name of a tensor of our plan."""
        if ours in _TOP:
            return _TOP[ours]
        _, layer, rest = ours.split(".", 2)
        return f"blk.{layer}.{self.layer[rest]}"

    def experts(self, layer: int, part: str) -> str:
        """The name of the tensor that holds a part ("gate", "up", "down") of all experts of a layer."""
        return f"blk.{layer}.ffn_{part}_exps.weight"

    def keys(self, config: dict[str, Any]) -> dict[str, Any]:
        """Metadata from the text part of a config.json; there is no tokenizer."""
        own = {
            "block_count": config["num_hidden_layers"],
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "vocab_size": config["vocab_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": config["head_dim"],
            "attention.value_length": config["head_dim"],
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "expert_used_count": config["num_experts_per_tok"],
            **self._own(config),
        }
        return {f"{self.name}.{key}": value for key, value in own.items()} | {"tokenizer.ggml.model": "none"}


def _minimax_m2(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "feed_forward_length": config["intermediate_size"],
        "expert_feed_forward_length": config["intermediate_size"],
        "expert_count": config["num_local_experts"],
        "expert_gating_func": 2,  # sigmoid
        "rope.dimension_count": config["rotary_dim"],
        "rope.freq_base": float(config["rope_theta"]),
    }


def _qwen3_5_moe(config: dict[str, Any]) -> dict[str, Any]:
    rope, values = config["rope_parameters"], config["linear_num_value_heads"]
    return {
        "expert_feed_forward_length": config["moe_intermediate_size"],
        "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
        "expert_count": config["num_experts"],
        "rope.dimension_count": int(config["head_dim"] * rope["partial_rotary_factor"]),
        "rope.dimension_sections": [*rope["mrope_section"], 0],
        "rope.freq_base": float(rope["rope_theta"]),
        "full_attention_interval": config["full_attention_interval"],
        "ssm.conv_kernel": config["linear_conv_kernel_dim"],
        "ssm.state_size": config["linear_key_head_dim"],
        "ssm.group_count": config["linear_num_key_heads"],
        "ssm.time_step_rank": values,
        "ssm.inner_size": values * config["linear_value_head_dim"],
    }


ARCHITECTURES = {  # by config.json's model_type
    "minimax_m2": Architecture("minimax-m2", _MINIMAX_M2, _minimax_m2),
    "qwen3_5_moe": Architecture("qwen35moe", _QWEN3_5_MOE, _qwen3_5_moe),
}
