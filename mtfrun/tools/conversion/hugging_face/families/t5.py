"""T5 1.0 and 1.1, FLAN-T5, mT5, ByT5.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and arXiv:2105.13626.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import Reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.activations import activation, name_of_activation
from mtfrun.tools.conversion.hugging_face.families import t5_tensors
from mtfrun.tools.conversion.hugging_face.families.t5_settings import (
    UNTIED_BUT_SCALED,
    num_blocks,
    write_encoder_decoder,
)
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Row, TensorTable
from mtfrun.tools.conversion.hugging_face.text_family import TextFamily
from mtfrun.tools.conversion.model_description import ModelDescription

_TIED = "tie_word_embeddings"
# The activations of our layers.
_DEFAULTS = {"FeedForward": "@mtf.relu", "GatedFeedForward": "@mtf.gelu"}


class T5(TextFamily):
    """Encoder-decoders with logits by distance, and RMS norms before their sublayers."""

    model_types: ClassVar[Sequence[str]] = ("t5", "mt5")
    architectures: ClassVar[Sequence[str]] = (
        "T5ForConditionalGeneration",
        "MT5ForConditionalGeneration",
    )

    def title(self, settings: Settings) -> str:
        """Returns the name for users."""
        if settings.text("model_type") == "mt5":
            return "mT5"
        return "T5 1.1" if _is_gated(settings) else "T5 1.0"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        """Returns the copies of the embedding; the softmax unless config.json says otherwise."""
        names = [*t5_tensors.EMBEDDING_COPIES]
        if settings.flag(_TIED, default=True):
            names.append(t5_tensors.SOFTMAX)
        return dict.fromkeys(names, t5_tensors.EMBEDDING)

    def settings_of(self, model: ModelDescription) -> Settings | None:
        """Returns the configuration of an encoder-decoder; None for other models."""
        shapes = model.shapes
        query = shapes.get("encoder_stack/blocks/0/self_attention/layer/attention/query", ())
        is_gated = any("gated_feed_forward" in path for path in shapes)
        layer = "GatedFeedForward" if is_gated else "FeedForward"
        function = model.parameter(f"encoder/transformer.{layer}", "activation")
        name = name_of_activation(function or _DEFAULTS[layer])
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
        # Only the softmax is looked for, and their number.
        tensors = [*shapes, *([] if is_tied else [t5_tensors.SOFTMAX])]
        return Settings(values, "the model", frozenset(tensors))

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        """Adds models/t5.1.1.gin or t5.1.0.gin, sizes, and what differs."""
        is_gated, is_tied = _is_gated(settings), _is_tied(settings)
        softmax = {"tied_softmax": is_tied}
        if is_tied:
            softmax["scaled_softmax"] = _is_scaled(settings)
        elif _is_scaled(settings):
            raise settings.error("scale_decoder_outputs", UNTIED_BUT_SCALED)
        model = "models/t5.1.1.gin" if is_gated else "models/t5.1.0.gin"
        write_encoder_decoder(settings, file, model, softmax)
        of_encoder, of_decoder = num_blocks(settings)
        if of_decoder != of_encoder:
            file.bind("decoder/transformer.Stack", {"num_layers": of_decoder})
        layer = "GatedFeedForward" if is_gated else "FeedForward"
        if str(_activation(settings)) != _DEFAULTS[layer]:
            file.bind(f"transformer.{layer}", {"activation": _activation(settings)})

    def table(self, settings: Settings) -> TensorTable:
        """Returns the tensors."""
        is_gated = _is_gated(settings)
        sublayer = "gated_feed_forward" if is_gated else "feed_forward"
        names = ["wi_0", "wi_1", "wo"] if is_gated else ["wi", "wo"]

        def feed_forward(stack: str, block: int, theirs: str) -> Iterator[Row]:
            ours = t5_tensors.in_order(stack, block, sublayer)
            yield from t5_tensors.kernels(f"{theirs}.DenseReluDense", f"{ours}/layer", names)
            yield t5_tensors.norm(theirs, ours)

        rows = t5_tensors.all_rows(
            settings.integer("vocab_size"),
            num_blocks(settings),
            feed_forward,
            is_tied=_is_tied(settings),
        )
        return TensorTable(rows, kept=[t5_tensors.UNUSED])


def _is_gated(settings: Settings) -> bool:
    text = settings.text("feed_forward_proj", "relu")
    return settings.flag("is_gated_act", default=text.startswith("gated-"))


def _activation(settings: Settings) -> Reference:
    text = settings.text("feed_forward_proj", "relu")
    # Configurations of T5 1.1 say gated-gelu, and mean the tanh form.
    name = "gelu_new" if text == "gated-gelu" else text.removeprefix("gated-")
    name = settings.text("dense_act_fn", name)
    return activation(settings, "feed_forward_proj", name)


def _is_tied(settings: Settings) -> bool:
    """Returns whether there is no softmax of its own, which transformers 5 takes if it is there."""
    return t5_tensors.SOFTMAX not in settings.tensors


def _is_scaled(settings: Settings) -> bool:
    """Returns whether a tied softmax has the factor d_model ** -0.5.

    Transformers 4 scales where `tie_word_embeddings` is true. Version 5 ties always: T5 has the
    setting `scale_decoder_outputs` instead, and mT5 does not scale.
    """
    is_tied = settings.flag(_TIED, default=True)
    if settings.text("model_type") == "mt5":
        return is_tied and settings.text("transformers_version", "4").startswith("4")
    return settings.flag("scale_decoder_outputs", default=is_tied)
