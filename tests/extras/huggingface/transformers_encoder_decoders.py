"""A program, not a test: makes encoder-decoders of transformers, with what they compute.

    python transformers_encoder_decoders.py make NAME FOLDER    writes a model of `MODELS`, or of a
                                                                config.json, as in tests/oracle/hf,
                                                                and its case.npz

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers

BART: dict[str, Any] = {
    **{"vocab_size": 80, "d_model": 16, "max_position_embeddings": 40},
    **{"encoder_layers": 2, "encoder_ffn_dim": 24, "encoder_attention_heads": 4},
    **{"decoder_layers": 2, "decoder_ffn_dim": 24, "decoder_attention_heads": 4},
}
OTHER_DECODER = {"decoder_layers": 1, "decoder_ffn_dim": 20, "decoder_attention_heads": 2}
MARIAN: dict[str, Any] = {**BART, "pad_token_id": 79, "decoder_start_token_id": 79}
M2M: dict[str, Any] = {**BART, **OTHER_DECODER, "d_model": 24, "encoder_layers": 1}
FORCED = {"forced_bos_token_id": 70}
UMT5: dict[str, Any] = {
    **{"vocab_size": 80, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    **{"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10},
}
LONGT5: dict[str, Any] = {
    **{**UMT5, "local_radius": 4, "global_block_size": 4, "feed_forward_proj": "gated-gelu"},
    **{"encoder_attention_type": "transient-global", "tie_word_embeddings": False},
    "decoder_start_token_id": 0,
}
SWITCH: dict[str, Any] = {
    **{**UMT5, "num_layers": 4, "num_decoder_layers": 2, "num_experts": 4},
    **{"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 1},
    **{"decoder_start_token_id": 0, "tie_word_embeddings": False, "initializer_factor": 0.1},
}

# By name the class without its ending, and its configuration with settings of generation.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart, three embeddings, relu": (
        "Bart",
        {
            **{**BART, "tie_word_embeddings": False, "activation_function": "relu"},
            **{"scale_embedding": True, "activation_dropout": 0.2, "attention_dropout": 0.1},
        },
    ),
    "bart, padding 0": (
        "Bart",
        {
            **{**BART, "pad_token_id": 0, "bos_token_id": 1, "forced_eos_token_id": None},
            **{"decoder_start_token_id": 5, "no_repeat_ngram_size": 2, "min_length": 4},
        },
    ),
    "marian, two embeddings": (
        "Marian",
        {**MARIAN, **OTHER_DECODER, "share_encoder_decoder_embeddings": False},
    ),
    "marian, a softmax of its own, forbidden padding": (
        "Marian",
        {**MARIAN, "tie_word_embeddings": False, "bad_words_ids": [[79]]},
    ),
    "pegasus, scaled, other padding": (
        "Pegasus",
        {
            **{**BART, **OTHER_DECODER, "scale_embedding": True, "pad_token_id": 3},
            **{"decoder_start_token_id": 3, "activation_function": "relu"},
        },
    ),
    "pegasus, three embeddings": ("Pegasus", {**BART, "tie_word_embeddings": False}),
    "umt5, relu, logits that are not scaled": (
        "UMT5",
        {
            **UMT5,
            "num_decoder_layers": 1,
            "feed_forward_proj": "relu",
            "tie_word_embeddings": False,
        },
    ),
    "longt5, local, scaled logits": (
        "LongT5",
        {**LONGT5, "encoder_attention_type": "local", "tie_word_embeddings": True},
    ),
    "longt5, relu, larger blocks, a smaller decoder": (
        "LongT5",
        {
            **{**LONGT5, "feed_forward_proj": "relu", "num_decoder_layers": 1},
            **{"global_block_size": 16, "local_radius": 2, "layer_norm_epsilon": 1e-3},
        },
    ),
    "mbart, relu, three embeddings, the start of every text": (
        "MBart",
        {
            **{**BART, "tie_word_embeddings": False, "activation_function": "relu"},
            **{"d_model": 18, "encoder_attention_heads": 3, "decoder_attention_heads": 2},
            "forced_bos_token_id": 70,
        },
    ),
    "m2m-100, not scaled, gelu, three layers": (
        "M2M100",
        {**BART, "scale_embedding": False, "activation_function": "gelu", "decoder_layers": 3},
    ),
    "m2m-100, three embeddings, padding 5": (
        "M2M100",
        {**BART, **FORCED, "tie_word_embeddings": False, "pad_token_id": 5, "d_model": 20},
    ),
    # It chooses the id of padding in the midst of outputs.
    "switch, three embeddings": ("SwitchTransformers", SWITCH),
}
ENDING, ENDINGS = "ForConditionalGeneration", {"Marian": "MTModel"}
NEW_TOKENS = 12
# Of the inputs and targets of every row, the end included; the others are padding.
INPUTS_LENGTHS, TARGETS_LENGTHS = (16, 9, 4, 12), (7, 16, 11, 3)
# Of models that do not see all positions: several windows and blocks, and none in one row.
LONG_INPUTS_LENGTHS = (46, 29, 3, 37)
# The deviation of what is added to all values. The larger it is, the more the gradients of a model
# multiply rounding errors; those of models for long inputs by too much for 0.4.
NOISE, LONG_NOISE = 0.4, 0.2
# Ids from here on are not special, and below the last one.
FIRST_ID = 8
_GENERATION = (
    *("forced_bos_token_id", "forced_eos_token_id", "bad_words_ids", "no_repeat_ngram_size"),
    "min_length",
)


def make(name: str, folder: pathlib.Path) -> None:
    """Writes a model with random weights and what it computes."""
    torch.manual_seed(len(name))
    if (folder / "config.json").exists():
        config = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, config.architectures[0])(config).eval()
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    else:
        kind, values = MODELS[name]
        of_model = {n: v for n, v in values.items() if n not in _GENERATION[:1] + _GENERATION[2:]}
        config = getattr(transformers, f"{kind}Config")(**of_model)
        model = getattr(transformers, f"{kind}{ENDINGS.get(kind, ENDING)}")(config).eval()
        for setting in _GENERATION:
            if setting in values:
                setattr(model.generation_config, setting, values[setting])
    random = np.random.default_rng(1)
    is_long = hasattr(config, "local_radius")
    noise = LONG_NOISE if is_long else NOISE
    inputs, mask = _rows(random, LONG_INPUTS_LENGTHS if is_long else INPUTS_LENGTHS, config)
    labels, is_target = _rows(random, TARGETS_LENGTHS, config)
    if isinstance(model, transformers.MBartForConditionalGeneration):
        # Its decoder reads the last label first.
        start_id = config.decoder_start_token_id or config.eos_token_id
        model.generation_config.decoder_start_token_id = start_id
        labels = np.where(labels == config.eos_token_id, start_id, labels)
    case: dict[str, Any] = {
        "inputs": inputs,
        "attention_mask": mask.astype(np.int64),
        "labels": np.where(is_target, labels, -100),
    }
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path not in (model._keys_to_ignore_on_save or ()):  # Marian's sines
                parameter.add_(noise * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.5)
        model.save_pretrained(folder)
        output = _run(model, case)
        prompts = {n: torch.tensor(case[x]) for n, x in _NAMES.items() if x != "labels"}
        greedy = model.generate(**prompts, max_new_tokens=NEW_TOKENS, do_sample=False)
        beams = {"num_beams": 3, "length_penalty": 0.0, "early_stopping": True}
        beam = model.generate(**prompts, max_new_tokens=NEW_TOKENS, do_sample=False, **beams)
    case |= {"logits": output.logits.numpy(), "loss": output.loss.numpy().reshape(1)}
    np.savez(folder / "case.npz", **case, greedy=greedy.numpy(), beam3=beam.numpy())


_NAMES = {"input_ids": "inputs", "attention_mask": "attention_mask", "labels": "labels"}


def _rows(
    random: np.random.Generator, lengths: tuple[int, ...], config: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids [rows, length] that end with the end id, and which of them are not padding."""
    positions, ends = np.arange(max(lengths)), np.array(lengths)[:, None]
    ids = random.integers(FIRST_ID, config.vocab_size - 1, (len(lengths), max(lengths)))
    ids = np.where(positions == ends - 1, config.eos_token_id, ids)
    return np.where(positions < ends, ids, config.pad_token_id), positions < ends


def _run(model: Any, case: dict[str, np.ndarray]) -> Any:
    return model(**{name: torch.tensor(case[x]) for name, x in _NAMES.items()})


if __name__ == "__main__":
    for name, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        make(name, pathlib.Path(folder))
