"""Models that were trained here, as transformers' configurations, and their comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.family import FEED_FORWARD, GATED, GLOBAL
from mtfrun.extras.huggingface.tables.settings import Settings, name_of_activation

Parameters = Mapping[str, Mapping[str, Any]]

# The modules of model classes in configurations.
_MODULES = ("transformer", "moe", "resnet", "layers", "huggingface", "text_tasks", "vision", "zoo")
# Settings that do not affect inference: an export compares tokenizers by their files.
_WITHOUT_EFFECT = (
    *("HuggingFaceVocabulary", "HuggingFaceDataset", "ids_of_tokens", "LabelVocabulary"),
    *("FirstIds", "LastIds", "ForbiddenIds", "ForbiddenFirstIds", "ForbiddenWords"),
    *("LabelSetVocabulary", "NumberVocabulary", "TextPairs", "WordLabels", "SpanData"),
    *("TextClassificationData", "TokenClassificationData", "RandAugment"),
    *("TokenLoss", "ImageLoss", "Jitter", "InputDropout", "SublayerDropout", "ImageMixing"),
    *("dropout_rate", "rate", "loss", "loss_coef", "z_loss", "input_noise", "round_factor"),
    *("rematerialise", "scan_blocks", "block_length", "max_length", "vocabulary_divisor"),
    *("routes_padding", "shift_across_segments", "loss_on_targets_only", "mixing"),
)


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """`parameters` are by "scope/module.Class" and name, `vocabulary_sizes` by table path."""

    parameters: Parameters
    shapes: Mapping[str, tuple[int, ...]]
    vocabulary_sizes: Mapping[str, int]

    def parameter(self, target: str, name: str) -> Any:
        return self.parameters.get(target, {}).get(name)

    def num_blocks(self, stack: str) -> int:
        prefix = f"{stack}/blocks/"
        return len({p.split("/")[2] for p in self.shapes if p.startswith(prefix)})

    def check_computes_as(self, other: ModelDescription, what: str) -> None:
        """Raises ConversionError unless both models have equal variables and outputs."""
        if dict(self.shapes) != dict(other.shapes):
            paths = sorted(set(self.shapes.items()) ^ set(other.shapes.items()))
            raise ConversionError(
                f"the model differs from {what}: {paths[0][0]} differs; export it with "
                "--format=safetensors"
            )
        ours, theirs = _of_model(self.parameters), _of_model(other.parameters)
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                raise ConversionError(
                    f"the model differs from {what}: {name}={ours.get(name)!r} there is "
                    f"{theirs.get(name)!r}; export it with --format=safetensors"
                )


def _of_model(parameters: Parameters) -> dict[str, Any]:
    return {
        f"{target}.{name}": value
        for target, arguments in parameters.items()
        for module, _, cls in [target.rpartition("/")[2].rpartition(".")]
        if module in _MODULES and cls not in _WITHOUT_EFFECT
        for name, value in arguments.items()
        if name not in _WITHOUT_EFFECT
    }


def settings_of(model: ModelDescription) -> Settings | None:
    """Returns the configuration of a T5, GPT-2 or Llama, or None."""
    if "embedding/table" not in model.shapes:  # `zoo.AdaptiveEmbedding`
        return None
    return _t5(model) or _gpt2(model) or _llama(model)


def _t5(model: ModelDescription) -> Settings | None:
    shapes = model.shapes
    query = shapes.get("encoder_stack/blocks/0/self_attention/layer/attention/query", ())
    is_gated = any("gated_feed_forward" in path for path in shapes)
    layer, usual = (GATED, "@mtf.gelu") if is_gated else (FEED_FORWARD, "@mtf.relu")
    name = name_of_activation(model.parameter(f"encoder/{layer}", "activation") or usual)
    bias = "encoder/transformer.RelativePositionBias"
    if len(query) != 3 or name is None or model.parameter(bias, "max_distance") is None:
        return None
    d_model, num_heads, d_kv = query
    is_tied = "softmax/kernel" not in shapes
    hidden = "gated_feed_forward/layer/wi_0" if is_gated else "feed_forward/layer/wi"
    values = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": model.vocabulary_sizes["embedding/table"],
        "d_model": d_model,
        "num_heads": num_heads,
        "d_kv": d_kv,
        "d_ff": shapes.get(f"encoder_stack/blocks/0/{hidden}/kernel", (0, 0))[-1],
        "num_layers": model.num_blocks("encoder_stack"),
        "num_decoder_layers": model.num_blocks("decoder_stack"),
        "feed_forward_proj": "gated-" * is_gated + ("gelu" if name == "gelu_new" else name),
        "dense_act_fn": name,
        "is_gated_act": is_gated,
        "relative_attention_num_buckets": model.parameter(bias, "num_buckets"),
        "relative_attention_max_distance": model.parameter(bias, "max_distance"),
        "layer_norm_epsilon": model.parameter("encoder/transformer.RMSNorm", "epsilon"),
        "dropout_rate": model.parameter("encoder/transformer.SublayerDropout", "rate"),
        "tie_word_embeddings": is_tied,
        "scale_decoder_outputs": is_tied
        and model.parameter("transformer.TokenEmbedding", "scaled_softmax"),
        **{"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
        "is_encoder_decoder": True,
        "dtype": "float32",
    }
    # Only their number and the softmax matter.
    tensors = [*shapes, *([] if is_tied else ["lm_head.weight"])]
    return Settings(values, "the model", frozenset(tensors))


_EMBEDDING, _HEADS = "transformer.TokenEmbedding", "transformer.AttentionHeads"


def _gpt2(model: ModelDescription) -> Settings | None:
    function = name_of_activation(model.parameter(FEED_FORWARD, "activation"))
    positions = model.shapes.get("position/table")
    epsilon = model.parameter("transformer.LayerNorm", "epsilon")
    is_decoder = not model.num_blocks("encoder_stack")
    if not (function and positions and epsilon is not None and is_decoder):
        return None
    dropout = model.parameter("transformer.SublayerDropout", "rate")
    embedding = model.parameter("embedding/transformer.SublayerDropout", "rate")
    values = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocabulary_sizes["embedding/table"],
        "n_embd": model.shapes["embedding/table"][-1],
        "n_inner": model.parameter(FEED_FORWARD, "d_ff"),
        "n_layer": model.num_blocks("decoder_stack"),
        "n_head": model.parameter(_HEADS, "num_heads"),
        "n_positions": positions[0],
        "layer_norm_epsilon": epsilon,
        "activation_function": function,
        "attn_pdrop": model.parameter(GLOBAL, "dropout_rate"),
        "resid_pdrop": dropout,
        "embd_pdrop": dropout if embedding is None else embedding,
        "scale_attn_weights": model.parameter(_HEADS, "scaled_logits"),
        "tie_word_embeddings": "softmax/kernel" not in model.shapes,
        "dtype": "float32",
    }
    return Settings(values, "the model")


def _llama(model: ModelDescription) -> Settings | None:
    function = name_of_activation(model.parameter(GATED, "activation"))
    heads, mlp_bias = model.parameter(_HEADS, "num_heads"), model.parameter(GATED, "use_bias")
    base = model.parameter("transformer.RotaryPositions", "base")
    if not (function and heads) or None in (base, mlp_bias):
        return None
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary_sizes["embedding/table"],
        "hidden_size": model.shapes["embedding/table"][-1],
        "intermediate_size": model.parameter(GATED, "d_ff"),
        "num_hidden_layers": model.num_blocks("decoder_stack"),
        "num_attention_heads": heads,
        "num_key_value_heads": model.parameter(_HEADS, "num_memory_heads") or heads,
        "head_dim": model.parameter(_HEADS, "d_kv"),
        "max_position_embeddings": model.parameter(_EMBEDDING, "max_length"),
        "rms_norm_eps": model.parameter("transformer.RMSNorm", "epsilon"),
        "hidden_act": function,
        "rope_theta": base,
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "attention_dropout": model.parameter(GLOBAL, "dropout_rate"),
        "attention_bias": model.parameter(_HEADS, "use_bias"),
        "mlp_bias": mlp_bias,
        "tie_word_embeddings": "softmax/kernel" not in model.shapes,
        "dtype": "float32",
    }
    return Settings(values, "the model")
