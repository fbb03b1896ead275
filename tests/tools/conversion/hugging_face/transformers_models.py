"""A program, not a test: makes models of transformers, and asks transformers for logits.

    python transformers_models.py make NAME FOLDER     writes a model of `MODELS` and its case.npz
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
}
LENGTH, PROMPT, NEW_TOKENS = 40, 6, 10
CLASSES = {"GPT2": "GPT2LMHeadModel"}
# Of float32, relative to the largest logit.
TOLERANCE = 1e-4


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    kind, values, is_version_4 = MODELS[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{kind}Config")(**values)
    model = getattr(transformers, CLASSES.get(kind, f"{kind}ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.08 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        ids = np.random.default_rng(1).integers(0, config.vocab_size, (2, LENGTH))
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
    task, first, second = sys.argv[1:]
    if task == "make":
        make(first, pathlib.Path(second))
    else:
        compare(pathlib.Path(first), pathlib.Path(second))
