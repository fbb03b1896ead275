"""A program, not a test: makes models of transformers, with what they compute.

    python transformers_models.py make NAME FOLDER     writes a model of `MODELS`, or of a
                                                       config.json, as in tests/oracle/hf, and its
                                                       case.npz

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
    **{"vocab_size": 161, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    # Instead of defaults beyond the vocabulary.
    **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
}
GPT2: dict[str, Any] = {
    **{"vocab_size": 161, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    **{"bos_token_id": None, "eos_token_id": None},
}
NEOX: dict[str, Any] = {n: v for n, v in SIZES.items() if n != "num_key_value_heads"}
BLOOM: dict[str, Any] = {
    **{"vocab_size": 161, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
}
# The sizes of models, where these are not `SIZES`.
BASES: dict[str, dict[str, Any]] = {
    **{"GPT2": GPT2, "GPTJ": GPT2, "GPTNeoX": NEOX, "Bloom": BLOOM},
    "Falcon": {**NEOX, "num_hidden_layers": 2},
    "OPT": {**NEOX, "num_hidden_layers": 2, "ffn_dim": 40},
    "GPTNeo": {
        **{"vocab_size": 161, "max_position_embeddings": 64, "hidden_size": 32, "num_heads": 4},
        **{"window_size": 6, "bos_token_id": None, "eos_token_id": None},
    },
}
LATENT: dict[str, Any] = {
    **{"num_key_value_heads": 4, "kv_lora_rank": 10, "q_lora_rank": 14, "v_head_dim": 6},
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "moe_intermediate_size": 12},
    **{"n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    "first_k_dense_replace": 1,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
# Of every head a half rotates.
HALVES = {"rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 0.5}}
GEMMA: dict[str, Any] = {"head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 7}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 500.0, "original_max_position_embeddings": 16},
    **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
YARN = {
    **{"rope_type": "yarn", "rope_theta": 1000.0, "original_max_position_embeddings": 16},
    **{"factor": 4.0, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    **{"mscale": 0.7, "mscale_all_dim": 1.0},
}
LONG_ROPE = {
    **{"rope_type": "longrope", "rope_theta": 1000.0, "original_max_position_embeddings": 16},
    **{"short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.2, 2.0, 3.5, 5.0]},
}

LINEAR = {"rope_type": "linear", "rope_theta": 777.0, "factor": 3.0}

# Configurations that are written in the form of version 4.
VERSION_4 = ("llama 3.1, version 4",)
# One for each way in which a model differs from those in tests/oracle/hf.zip: the class and its
# configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with biases and heads of another size": (
        "Llama",
        {"head_dim": 12, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
    ),
    "llama, tied, one memory head": (
        "Llama",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 0.001},
    ),
    "llama 3.1, version 4": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, yarn": ("Llama", {"head_dim": 16, "rope_parameters": YARN}),
    "llama, dynamic": (
        "Llama",
        {
            "max_position_embeddings": 20,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 3.0},
        },
    ),
    "phi3, longrope": (
        "Phi3",
        {"original_max_position_embeddings": 16, "rope_parameters": LONG_ROPE},
    ),
    "mistral without a window": ("Mistral", {"sliding_window": None}),
    "qwen2, windows in the last layers": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen2, windows in turn": (
        "Qwen2",
        {
            **{"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 7},
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
    ),
    "mixtral, one expert a token": (
        "Mixtral",
        {"num_local_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True},
    ),
    "mixtral, a window, three experts a token": (
        "Mixtral",
        {
            **{"num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 7},
            "hidden_act": "gelu",
        },
    ),
    "gpt2, relu": (
        "GPT2",
        {"n_inner": 40, "activation_function": "relu", "layer_norm_epsilon": 0.001},
    ),
    "gpt2, a softmax of its own, logits without a scale": (
        "GPT2",
        {"activation_function": "gelu", "scale_attn_weights": False, "tie_word_embeddings": False},
    ),
    "gpt2, smaller logits in later layers": (
        "GPT2",
        {"n_layer": 3, "scale_attn_by_inverse_layer_idx": True},
    ),
    "gpt neo, local at the end": (
        "GPTNeo",
        {
            **{"num_layers": 3, "attention_types": [[["global"], 2], [["local"], 1]]},
            "activation_function": "quick_gelu",
        },
    ),
    "qwen3, windows, biases": (
        "Qwen3",
        {
            **{"attention_bias": True, "head_dim": 8, "num_key_value_heads": 1},
            **{"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
            "tie_word_embeddings": True,
        },
    ),
    "phi3, a window, a part of heads rotates": (
        "Phi3",
        {
            **{"sliding_window": 9, "num_key_value_heads": 4},
            "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
        },
    ),
    "olmo3, scaled positions": (
        "Olmo3",
        {
            **{"num_hidden_layers": 4, "sliding_window": 7},
            "rope_parameters": {"full_attention": YARN, "sliding_attention": LINEAR},
        },
    ),
    "starcoder2, no window, no biases": (
        "Starcoder2",
        {
            **{"use_bias": False, "tie_word_embeddings": False, "hidden_act": "relu"},
            **{"rope_parameters": LINEAR, "num_key_value_heads": 1, "norm_epsilon": 0.001},
        },
    ),
    "glm, whole heads, no biases, tied": (
        "Glm",
        {
            **{"attention_bias": False, "head_dim": 12},
            "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0},
            "tie_word_embeddings": True,
        },
    ),
    "smollm3, windows": (
        "SmolLM3",
        {
            **{"num_hidden_layers": 4, "no_rope_layer_interval": 2, "use_sliding_window": True},
            **{"sliding_window": 6, "tie_word_embeddings": False, "attention_bias": True},
        },
    ),
    "gemma": ("Gemma", {"head_dim": 12, "num_hidden_layers": 2, "hidden_act": "gelu"}),
    "gemma2, no limits, windows at the end": (
        "Gemma2",
        {
            **{**GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None},
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "tie_word_embeddings": False,
        },
    ),
    "gemma3, scaled positions": (
        "Gemma3Text",
        {
            **{**GEMMA, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 4.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "stablelm, layers side by side, biases": (
        "StableLm",
        {
            **{"use_parallel_residual": True, "use_qkv_bias": True, "num_key_value_heads": 4},
            "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0},
        },
    ),
    "cohere2, windows in all layers, biases": (
        "Cohere2",
        {
            **{"attention_bias": True, "tie_word_embeddings": False, "sliding_window": 5},
            **{"layer_types": ["sliding_attention"] * 3, "rope_parameters": LINEAR},
        },
    ),
    "cohere, norms, biases": (
        "Cohere",
        {
            **{"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False},
            "layer_norm_eps": 0.001,
        },
    ),
    "phi, norms, grouped, tied": (
        "Phi",
        {
            **{"qk_layernorm": True, "tie_word_embeddings": True, "resid_pdrop": 0.2},
            "hidden_act": "relu",
        },
    ),
    "gptj, whole heads": ("GPTJ", {"rotary_dim": 8, "n_inner": 40, "activation_function": "gelu"}),
    "gpt_neox, one after the other, no biases": (
        "GPTNeoX",
        {
            **{"use_parallel_residual": False, "attention_bias": False},
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_theta": 99.0, "partial_rotary_factor": 1.0},
        },
    ),
    "falcon": ("Falcon", {}),
    "falcon, as many memory heads, biases": (
        "Falcon",
        {"multi_query": False, "parallel_attn": False, "bias": True},
    ),
    "falcon, distances": (
        "Falcon",
        {
            **{"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
            **{"hidden_size": 24, "num_attention_heads": 6},
        },
    ),
    "falcon, new architecture, one norm": (
        "Falcon",
        {
            **{"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
            "tie_word_embeddings": False,
        },
    ),
    "opt, a factorised embedding, norms behind the sublayers": (
        "OPT",
        {"word_embed_proj_dim": 12, "do_layer_norm_before": False},
    ),
    "opt, a factorised embedding, no last norm": (
        "OPT",
        {"word_embed_proj_dim": 48, "_remove_final_layer_norm": True},
    ),
    "bloom, three heads": ("Bloom", {"hidden_size": 24, "n_head": 3, "tie_word_embeddings": False}),
    "qwen2_moe, some layers without experts, windows": (
        "Qwen2Moe",
        {
            **{**EXPERTS, "num_hidden_layers": 4, "mlp_only_layers": [1], "norm_topk_prob": True},
            **{"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20},
            **{"use_sliding_window": True, "sliding_window": 7, "hidden_act": "gelu"},
        },
    ),
    "qwen3_moe, experts in every other layer": (
        "Qwen3Moe",
        {
            **{**EXPERTS, "moe_intermediate_size": 12, "num_hidden_layers": 4},
            **{"decoder_sparse_step": 2, "norm_topk_prob": True, "head_dim": 12},
            **{"use_sliding_window": True, "sliding_window": 7},
        },
    ),
    "olmoe, weights that sum to 1": (
        "Olmoe",
        {**EXPERTS, "norm_topk_prob": True, "tie_word_embeddings": True},
    ),
    "deepseek_v3, yarn, biases, queries without a latent vector": (
        "DeepseekV3",
        {
            **{**LATENT, "rope_parameters": YARN, "q_lora_rank": None, "attention_bias": True},
            **{"rope_interleave": False, "n_shared_experts": 2, "norm_topk_prob": False},
            **{"routed_scaling_factor": 1.5, "rms_norm_eps": 0.001, "n_group": 1, "topk_group": 1},
            **{"hidden_act": "gelu", "first_k_dense_replace": 0},
        },
    ),
}
LENGTH, SHORT, PROMPT, NEW_TOKENS = 40, 24, 6, 10
CLASSES = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    length, is_version_4 = LENGTH, name in VERSION_4
    torch.manual_seed(len(name))
    if (folder / "config.json").exists():
        config, length = transformers.AutoConfig.from_pretrained(folder), SHORT
        model = getattr(transformers, config.architectures[0])(config).eval()
    else:
        kind, values = MODELS[name]
        config = getattr(transformers, f"{kind}Config")(**{**BASES.get(kind, SIZES), **values})
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


if __name__ == "__main__":
    for name, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        make(name, pathlib.Path(folder))
