"""The five models' config.json as far as it says anything about shapes; nothing here is read by the packages."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
_INT4_WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
_INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": _INT4_WEIGHTS}},
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"],
}
_SIGMOID = {
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
_YARN = {"type": "yarn", "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}

DEEPSEEK_R1: dict[str, Any] = {
    **_SIGMOID,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {**_YARN, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},
    "max_position_embeddings": 163840,
    "vocab_size": 129280,
    "num_nextn_predict_layers": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "quantization_config": _FP8,
}

_KIMI_TEXT = DEEPSEEK_R1 | {
    "model_type": "kimi_k2",
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_routed_experts": 384,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000,
    "rope_scaling": {**_YARN, "factor": 64, "mscale": 1.0, "mscale_all_dim": 1.0},
    "max_position_embeddings": 262144,
    "vocab_size": 163840,
    "num_nextn_predict_layers": 0,
    "bos_token_id": 163584,
    "eos_token_id": 163585,
    "quantization_config": _INT4,
}
KIMI_K25: dict[str, Any] = {
    "architectures": ["KimiK25ForConditionalGeneration"],
    "model_type": "kimi_k25",
    "text_config": _KIMI_TEXT,
    "vision_config": {"vt_num_hidden_layers": 27, "vt_hidden_size": 1152},
    "media_placeholder_token_id": 163605,
    "quantization_config": _INT4,
}

GLM_5: dict[str, Any] = {
    **_SIGMOID,
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "hidden_size": 6144,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "head_dim": 64,
    "q_lora_rank": 2048,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "intermediate_size": 12288,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"},
    "rope_interleave": True,
    "indexer_rope_interleave": True,
    "index_n_heads": 32,
    "index_head_dim": 128,
    "index_topk": 2048,
    "max_position_embeddings": 202752,
    "vocab_size": 154880,
    "num_nextn_predict_layers": 1,
    "eos_token_id": [154820, 154827, 154829],
}

MINIMAX_M25: dict[str, Any] = {
    "architectures": ["MiniMaxM2ForCausalLM"],
    "model_type": "minimax_m2",
    "hidden_act": "silu",
    "hidden_size": 3072,
    "num_hidden_layers": 62,
    "attn_type_list": [1] * 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1536,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "shared_intermediate_size": 0,
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 5_000_000,
    "rotary_dim": 64,
    "use_qk_norm": True,
    "qk_norm_type": "per_layer",
    "use_mtp": True,
    "num_mtp_modules": 3,
    "max_position_embeddings": 196608,
    "vocab_size": 200064,
    "tie_word_embeddings": False,
    "quantization_config": _FP8,
}

_QWEN_TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_moe_text",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "num_hidden_layers": 60,
    "full_attention_interval": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "attn_output_gate": True,
    "attention_bias": False,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000,
        "partial_rotary_factor": 0.25,
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
    },
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 64,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 1024,
    "shared_expert_intermediate_size": 1024,
    "mlp_only_layers": [],
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 262144,
    "vocab_size": 248320,
    "tie_word_embeddings": False,
    "eos_token_id": 248044,
}
QWEN_397B: dict[str, Any] = {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"],
    "model_type": "qwen3_5_moe",
    "text_config": _QWEN_TEXT,
}

PUBLISHED = {
    "Qwen3.5-397B-A17B": QWEN_397B,
    "GLM-5": GLM_5,
    "Kimi-K2.5": KIMI_K25,
    "MiniMax-M2.5": MINIMAX_M25,
    "DeepSeek-R1": DEEPSEEK_R1,
}
# Weights of the language model, from the checkpoints' own headers.
WEIGHTS = {
    "Qwen3.5-397B-A17B": 396_346_350_336,
    "GLM-5": 743_911_218_432,
    "Kimi-K2.5": 1_026_408_232_448,
    "MiniMax-M2.5": 228_689_764_864,
    "DeepSeek-R1": 671_026_419_200,
}


def scaled(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same model with other numbers, wherever the config has them."""
    made = deepcopy(config)
    text = made.get("text_config", made)
    text.update(changes)
    if "attn_type_list" in text:
        text["attn_type_list"] = [1] * text["num_hidden_layers"]
    return made
