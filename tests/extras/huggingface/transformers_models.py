"""A program, not a test: makes models of transformers, and asks transformers for logits.

    python transformers_models.py make NAME FOLDER     writes a model of `MODELS` and its case.npz,
                                                       or one of `STORED` into tests/oracle/hf
    python transformers_models.py logits FOLDER CASE   compares the model of a folder with a case

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 161,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 161,
    "n_positions": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": None,
    "eos_token_id": None,
}
NEO_SIZES: dict[str, Any] = {
    "vocab_size": 161,
    "max_position_embeddings": 64,
    "hidden_size": 32,
    "num_heads": 4,
    "window_size": 6,
    "bos_token_id": None,
    "eos_token_id": None,
}
NEOX_SIZES: dict[str, Any] = {n: v for n, v in SIZES.items() if n != "num_key_value_heads"}
SMALL_GPT2: dict[str, Any] = {**GPT2_SIZES, "vocab_size": 80, "n_embd": 16}
LATENT: dict[str, Any] = {
    **{"num_key_value_heads": 4, "kv_lora_rank": 10, "q_lora_rank": 14, "v_head_dim": 6},
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "moe_intermediate_size": 12},
    **{"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    "first_k_dense_replace": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
# Of every head a half rotates.
HALVES = {"rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 0.5}}
FALCON: dict[str, Any] = {**NEOX_SIZES, "num_hidden_layers": 2}
BLOOM: dict[str, Any] = {
    **{"vocab_size": 161, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    **{"bos_token_id": None, "eos_token_id": None},
}
# Instead of defaults beyond the vocabulary.
NO_IDS: dict[str, Any] = {"pad_token_id": None}
GEMMA: dict[str, Any] = {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 7}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 16,
    "beta_slow": 2,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
    "truncate": False,
}
LONG_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 1000.0, "original_max_position_embeddings": 16},
    **{"short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.0, 3.5, 5.0]},
}

LINEAR = {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0}

# (the class, its configuration, whether the configuration is written in the form of version 4)
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama with biases and heads of another size": (
        "Llama",
        {**SIZES, "head_dim": 12, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
        False,
    ),
    "llama, tied, one memory head": (
        "Llama",
        {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
        False,
    ),
    "llama 3.1": ("Llama", {**SIZES, "rope_parameters": LLAMA3}, False),
    "llama 3.1, version 4": ("Llama", {**SIZES, "rope_parameters": LLAMA3}, True),
    "llama, yarn": ("Llama", {**SIZES, "head_dim": 16, "rope_parameters": YARN}, False),
    # Rows are longer than those of its first training.
    "llama, dynamic": (
        "Llama",
        {
            **{**SIZES, "max_position_embeddings": 20},
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 3.0},
        },
        False,
    ),
    "phi3, longrope": (
        "Phi3",
        {**SIZES, **NO_IDS, "original_max_position_embeddings": 16, "rope_parameters": LONG_ROPE},
        False,
    ),
    "llama, linear, version 4": (
        "Llama",
        {
            **SIZES,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0},
        },
        True,
    ),
    "mistral without a window": ("Mistral", {**SIZES, "sliding_window": None}, False),
    "mistral, heads of another size": (
        "Mistral",
        {**SIZES, "sliding_window": 9, "head_dim": 16},
        False,
    ),
    "qwen2, windows in the last layers": (
        "Qwen2",
        {**SIZES, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
        False,
    ),
    "qwen2, windows in turn": (
        "Qwen2",
        {
            **SIZES,
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
        False,
    ),
    "mixtral, one expert a token": (
        "Mixtral",
        {**SIZES, "num_local_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True},
        False,
    ),
    "mixtral, a window, three experts a token": (
        "Mixtral",
        {
            **SIZES,
            "num_local_experts": 5,
            "num_experts_per_tok": 3,
            "sliding_window": 7,
            "hidden_act": "gelu",
        },
        False,
    ),
    "mixtral, version 4": ("Mixtral", {**SIZES, "num_local_experts": 4}, True),
    "gpt2, relu": (
        "GPT2",
        {**GPT2_SIZES, "n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 1e-3},
        False,
    ),
    "gpt2, a softmax of its own, logits without a scale": (
        "GPT2",
        {
            **GPT2_SIZES,
            "activation_function": "gelu",
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
        },
        False,
    ),
    "gpt2, smaller logits in later layers": (
        "GPT2",
        {**GPT2_SIZES, "n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
        False,
    ),
    "gpt neo, local at the end": (
        "GPTNeo",
        {
            **NEO_SIZES,
            "num_layers": 3,
            "attention_types": [[["global"], 2], [["local"], 1]],
            "activation_function": "quick_gelu",
        },
        False,
    ),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 12, "num_hidden_layers": 2}, False),
    "qwen3, windows, biases": (
        "Qwen3",
        {
            **SIZES,
            "attention_bias": True,
            "head_dim": 8,
            "num_key_value_heads": 1,
            "use_sliding_window": True,
            "sliding_window": 7,
            "max_window_layers": 2,
            "tie_word_embeddings": True,
        },
        False,
    ),
    "phi3": ("Phi3", {**SIZES, "num_hidden_layers": 2, "resid_pdrop": 0.1, **NO_IDS}, False),
    "phi3, a window, a part of heads rotates": (
        "Phi3",
        {
            **SIZES,
            **NO_IDS,
            "sliding_window": 9,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
        False,
    ),
    "olmo2": ("Olmo2", {**SIZES, "num_hidden_layers": 2, **NO_IDS}, False),
    "olmo2, biases, tied": (
        "Olmo2",
        {
            **SIZES,
            **NO_IDS,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
        },
        False,
    ),
    "olmo3, scaled positions": (
        "Olmo3",
        {
            **{**SIZES, **NO_IDS, "num_hidden_layers": 4, "sliding_window": 7},
            "rope_parameters": {"full_attention": YARN, "sliding_attention": LINEAR},
        },
        False,
    ),
    "olmo3, windows at the end, tied": (
        "Olmo3",
        {
            **{**SIZES, **NO_IDS, "sliding_window": 6, "tie_word_embeddings": True},
            **{"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        },
        False,
    ),
    "olmo, no limit, biases, tied": (
        "Olmo",
        {**SIZES, **NO_IDS, "attention_bias": True, "tie_word_embeddings": True},
        False,
    ),
    "starcoder2, no window, no biases": (
        "Starcoder2",
        {
            **{**SIZES, "use_bias": False, "tie_word_embeddings": False, "hidden_act": "relu"},
            **{"rope_parameters": LINEAR, "num_key_value_heads": 1, "norm_epsilon": 1e-3},
        },
        False,
    ),
    "glm, whole heads, no biases, tied": (
        "Glm",
        {
            **{**SIZES, **NO_IDS, "attention_bias": False, "head_dim": 12},
            **{"rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0}},
            "tie_word_embeddings": True,
        },
        False,
    ),
    "glm4, one memory head": (
        "Glm4",
        {**SIZES, **NO_IDS, "head_dim": 8, "num_key_value_heads": 1, "hidden_act": "gelu"},
        False,
    ),
    "smollm3": ("SmolLM3", {**SIZES, **NO_IDS, "num_hidden_layers": 4}, False),
    "smollm3, windows": (
        "SmolLM3",
        {
            **SIZES,
            **NO_IDS,
            "num_hidden_layers": 4,
            "no_rope_layer_interval": 2,
            "use_sliding_window": True,
            "sliding_window": 6,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
        False,
    ),
    "gemma": (
        "Gemma",
        {**SIZES, **NO_IDS, "head_dim": 12, "num_hidden_layers": 2, "hidden_act": "gelu"},
        False,
    ),
    "gemma, one memory head": ("Gemma", {**SIZES, **NO_IDS, "num_key_value_heads": 1}, False),
    "gemma2": (
        "Gemma2",
        {**SIZES, **NO_IDS, **GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        False,
    ),
    "gemma2, no limits, windows at the end": (
        "Gemma2",
        {
            **SIZES,
            **NO_IDS,
            **GEMMA,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": False,
        },
        False,
    ),
    "gemma3": (
        "Gemma3Text",
        {**SIZES, **NO_IDS, **GEMMA, "num_hidden_layers": 6, "layer_types": None},
        False,
    ),
    "gemma3, scaled positions": (
        "Gemma3Text",
        {
            **SIZES,
            **NO_IDS,
            **GEMMA,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
        False,
    ),
    "granite": (
        "Granite",
        {
            **SIZES,
            "num_hidden_layers": 2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.3,
            "logits_scaling": 1.7,
        },
        False,
    ),
    "granite, biases, tied": (
        "Granite",
        {**SIZES, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        False,
    ),
    "stablelm": ("StableLm", {**SIZES, "num_hidden_layers": 2, "qk_layernorm": True}, False),
    "stablelm, layers side by side, biases": (
        "StableLm",
        {
            **SIZES,
            "use_parallel_residual": True,
            "use_qkv_bias": True,
            "num_key_value_heads": 4,
            "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0},
        },
        False,
    ),
    "cohere": ("Cohere", {**SIZES, **NO_IDS, "num_hidden_layers": 2, "logit_scale": 0.3}, False),
    "cohere2": (
        "Cohere2",
        {**SIZES, **NO_IDS, "num_hidden_layers": 4, "sliding_window": 7, "logit_scale": 0.3},
        False,
    ),
    "cohere2, windows in all layers, biases": (
        "Cohere2",
        {
            **{**SIZES, **NO_IDS, "attention_bias": True, "tie_word_embeddings": False},
            **{"sliding_window": 5, "layer_types": ["sliding_attention"] * 3},
            "rope_parameters": LINEAR,
        },
        False,
    ),
    "cohere, norms, biases": (
        "Cohere",
        {
            **SIZES,
            **NO_IDS,
            "use_qk_norm": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "layer_norm_eps": 1e-3,
        },
        False,
    ),
    "phi": ("Phi", {**SIZES, "num_hidden_layers": 2, "num_key_value_heads": 4}, False),
    "phi, norms, grouped, tied": (
        "Phi",
        {
            **SIZES,
            "qk_layernorm": True,
            "tie_word_embeddings": True,
            "resid_pdrop": 0.2,
            "hidden_act": "relu",
        },
        False,
    ),
    "gptj": ("GPTJ", {**GPT2_SIZES, "rotary_dim": 4}, False),
    "gptj, whole heads": (
        "GPTJ",
        {**GPT2_SIZES, "rotary_dim": 8, "n_inner": 40, "activation_function": "gelu"},
        False,
    ),
    "gpt_neox": ("GPTNeoX", {**NEOX_SIZES, "num_hidden_layers": 2}, False),
    "gpt_neox, one after the other, no biases": (
        "GPTNeoX",
        {
            **NEOX_SIZES,
            "use_parallel_residual": False,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0},
        },
        False,
    ),
    "falcon": ("Falcon", FALCON, False),
    "falcon, as many memory heads, biases": (
        "Falcon",
        {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
        False,
    ),
    "falcon, distances": (
        "Falcon",
        {
            **{**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
            **{"hidden_size": 24, "num_attention_heads": 6},
        },
        False,
    ),
    "falcon, distances, new architecture": (
        "Falcon",
        {**FALCON, "alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2},
        False,
    ),
    "falcon, new architecture": (
        "Falcon",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 40},
        False,
    ),
    "falcon, new architecture, one norm": (
        "Falcon",
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False,
        },
        False,
    ),
    "opt": (
        "OPT",
        {**NEOX_SIZES, **NO_IDS, "num_hidden_layers": 2, "ffn_dim": 40, "word_embed_proj_dim": 32},
        False,
    ),
    "opt, a factorised embedding, norms behind the sublayers": (
        "OPT",
        {
            **{**NEOX_SIZES, **NO_IDS, "num_hidden_layers": 2, "ffn_dim": 40},
            **{"word_embed_proj_dim": 12, "do_layer_norm_before": False},
        },
        False,
    ),
    "opt, a factorised embedding, no last norm": (
        "OPT",
        {
            **{**NEOX_SIZES, **NO_IDS, "num_hidden_layers": 2, "ffn_dim": 40},
            **{"word_embed_proj_dim": 48, "_remove_final_layer_norm": True},
        },
        False,
    ),
    "bloom": ("Bloom", {**NO_IDS, **BLOOM, "n_layer": 2}, False),
    "bloom, three heads": (
        "Bloom",
        {**NO_IDS, **BLOOM, "hidden_size": 24, "n_head": 3, "tie_word_embeddings": False},
        False,
    ),
    "qwen2_moe, some layers without experts, windows": (
        "Qwen2Moe",
        {
            **SIZES,
            **EXPERTS,
            **{"num_hidden_layers": 4, "mlp_only_layers": [1], "norm_topk_prob": True},
            **{"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20},
            **{"use_sliding_window": True, "sliding_window": 7, "hidden_act": "gelu"},
        },
        False,
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {**SIZES, **EXPERTS, "num_hidden_layers": 2, "moe_intermediate_size": 12},
        False,
    ),
    "qwen3_moe, experts in every other layer": (
        "Qwen3Moe",
        {
            **SIZES,
            **EXPERTS,
            "moe_intermediate_size": 12,
            "num_hidden_layers": 4,
            "decoder_sparse_step": 2,
            "norm_topk_prob": True,
            "head_dim": 12,
            "use_sliding_window": True,
            "sliding_window": 7,
        },
        False,
    ),
    "olmoe": ("Olmoe", {**SIZES, **EXPERTS, **NO_IDS, "num_hidden_layers": 2}, False),
    "olmoe, weights that sum to 1": (
        "Olmoe",
        {**SIZES, **EXPERTS, **NO_IDS, "norm_topk_prob": True, "tie_word_embeddings": True},
        False,
    ),
    "deepseek_v3": ("DeepseekV3", {**SIZES, **LATENT}, False),
    "deepseek_v3, yarn, biases, queries without a latent vector": (
        "DeepseekV3",
        {
            **{**SIZES, **LATENT, "rope_parameters": YARN, "q_lora_rank": None},
            **{"attention_bias": True, "rope_interleave": False, "n_shared_experts": 2},
            **{"norm_topk_prob": False, "routed_scaling_factor": 1.5, "rms_norm_eps": 1e-3},
            **{"n_group": 1, "topk_group": 1, "hidden_act": "gelu", "first_k_dense_replace": 0},
        },
        False,
    ),
}
# Those of tests/oracle/hf.zip: smaller, with the parts that make their family.
SMALL: dict[str, Any] = {
    **SIZES,
    **{"vocab_size": 80, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    "pad_token_id": None,
}
STORED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "qwen3": ("Qwen3", {**SMALL, "head_dim": 8}, False),
    "phi3": (
        "Phi3",
        {**SMALL, "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 0.5}},
        False,
    ),
    "glm": ("Glm", {**SMALL, "head_dim": 8}, False),
    "glm4": ("Glm4", {**SMALL, "head_dim": 8}, False),
    "olmo": ("Olmo", {**SMALL, "clip_qkv": 0.3}, False),
    "olmo2": ("Olmo2", SMALL, False),
    "olmo3": (
        "Olmo3",
        {
            **{**SMALL, "layer_types": ["sliding_attention", "full_attention"]},
            **{"sliding_window": 7, "rope_parameters": {"full_attention": YARN}},
        },
        False,
    ),
    "starcoder2": ("Starcoder2", {**SMALL, "sliding_window": 7}, False),
    "cohere2": (
        "Cohere2",
        {
            **{**SMALL, "sliding_window": 7, "logit_scale": 0.3},
            "layer_types": ["sliding_attention", "full_attention"],
        },
        False,
    ),
    "smollm3": ("SmolLM3", {**SMALL, "no_rope_layer_interval": 2}, False),
    "gemma": ("Gemma", {**SMALL, "head_dim": 6}, False),
    "gemma2": (
        "Gemma2",
        {**SMALL, **GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        False,
    ),
    "gemma3_text": (
        "Gemma3Text",
        {**SMALL, **GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
        False,
    ),
    "granite": (
        "Granite",
        {
            **SMALL,
            **{"embedding_multiplier": 3.0, "residual_multiplier": 0.4},
            **{"attention_multiplier": 0.3, "logits_scaling": 1.7},
        },
        False,
    ),
    "stablelm": ("StableLm", {**SMALL, **HALVES, "qk_layernorm": True}, False),
    "cohere": ("Cohere", {**SMALL, "use_qk_norm": True, "logit_scale": 0.3}, False),
    "phi": ("Phi", {**SMALL, "qk_layernorm": True, **HALVES}, False),
    "gptj": ("GPTJ", {**SMALL_GPT2, "rotary_dim": 2}, False),
    "gpt_neox": ("GPTNeoX", {**SMALL, **HALVES, "num_key_value_heads": 4}, False),
    "falcon": (
        "Falcon",
        {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        False,
    ),
    "opt": ("OPT", {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}, False),
    "bloom": ("Bloom", {**BLOOM, **NO_IDS, "vocab_size": 80, "hidden_size": 16}, False),
    "qwen2_moe": (
        "Qwen2Moe",
        {**SMALL, **EXPERTS, **{"moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}},
        False,
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {**SMALL, **EXPERTS, "moe_intermediate_size": 8, "decoder_sparse_step": 2},
        False,
    ),
    "olmoe": ("Olmoe", {**SMALL, **EXPERTS, "intermediate_size": 8}, False),
    "deepseek_v3": ("DeepseekV3", {**SMALL, **LATENT, "moe_intermediate_size": 8}, False),
}
LENGTH, SHORT, PROMPT, NEW_TOKENS = 40, 24, 6, 10
ORACLE = pathlib.Path(__file__).parents[2] / "oracle" / "hf"
CLASSES = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}
# Of float32, relative to the largest logit.
TOLERANCE = 1e-4


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    is_stored = folder.parent == ORACLE
    kind, values, is_version_4 = (STORED if is_stored else MODELS)[name]
    length = SHORT if is_stored else LENGTH
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**values)
    model = getattr(transformers, CLASSES.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.add_(0.08 * torch.randn_like(buffer))
        model.save_pretrained(folder)
        ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, length))
        inputs = torch.tensor(ids)
        output = model(inputs, labels=inputs)
        greedy = model.generate(
            inputs[:, :PROMPT], max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
    np.savez(
        folder / "case.npz",
        inputs=ids,
        logits=output.logits.numpy(),
        loss=output.loss.numpy().reshape(1),
        prompt=ids[:, :PROMPT],
        greedy=greedy.numpy(),
    )
    if is_version_4:
        _write_version_4(folder / "config.json")


def _write_version_4(path: pathlib.Path) -> None:
    """Writes a configuration as transformers 4 did."""
    values = json.loads(path.read_text())
    scaling = values.pop("rope_parameters")
    values["rope_theta"] = scaling.pop("rope_theta")
    values["rope_scaling"] = {"type": scaling.pop("rope_type"), **scaling}
    values["torch_dtype"] = values.pop("dtype")
    values["transformers_version"] = "4.44.0"
    path.write_text(json.dumps(values, indent=2))


def compare(folder: pathlib.Path, case: pathlib.Path) -> None:
    """Raises unless the model of a folder gives the logits of a case."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    arrays = np.load(case)
    with torch.no_grad():
        logits = model(torch.tensor(arrays["inputs"])).logits.numpy()
    error = np.abs(logits - arrays["logits"]).max() / np.abs(arrays["logits"]).max()
    if not error <= TOLERANCE:
        raise AssertionError(f"logits differ by {error} of the largest")


if __name__ == "__main__":
    task, first, second, *further = sys.argv[1:]
    if task == "make":
        for name, folder in zip([first, *further[::2]], [second, *further[1::2]], strict=True):
            make(name, pathlib.Path(folder))
    else:
        compare(pathlib.Path(first), pathlib.Path(second))
