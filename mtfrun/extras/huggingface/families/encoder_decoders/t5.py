"""T5 1.0 and 1.1, FLAN-T5, mT5, ByT5, umT5, and encoders alone for vectors of texts.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and arXiv:2105.13626; Chung
et al. 2023, arXiv:2304.09151; Ni et al. 2021, arXiv:2108.08877.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    GLOBAL,
    ModelDescription,
    Processor,
    TextFamily,
    write_row_length,
    write_text_data,
)
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings, name_of_activation
from mtfrun.extras.huggingface.tables.tensor_table import (
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    attention_rows,
)
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer

# Checkpoints of T5 1.0 have it, and nothing uses it.
_BIAS = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"

# The tables that are one in all models.
_EMBEDDING = "shared.weight"
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
SOFTMAX = "lm_head.weight"

UNTIED_BUT_SCALED = (
    "scales the logits of a separate softmax, lm_head, which is not supported: train with "
    "tie_word_embeddings=false, or without lm_head"
)

_TIED = "tie_word_embeddings"
# The activations of our layers.
_DEFAULTS = {"FeedForward": "@mtf.relu", "GatedFeedForward": "@mtf.gelu"}


class T5(TextFamily):
    """Encoder-decoders with logits by distance, and RMS norms before their sublayers.

    `shipped_files` are for models with relu, and for gated ones.
    """

    unused: ClassVar[Sequence[str]] = (_BIAS,)
    shipped_files: ClassVar[tuple[str, str]] = ("models/t5.1.0.gin", "models/t5.1.1.gin")

    def title(self, settings: Settings) -> str:
        if settings.text("model_type") == "mt5":
            return "mT5"
        return "T5 1.1" if _is_gated(settings) else "T5 1.0"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag(_TIED, default=True)
        return dict.fromkeys([*EMBEDDING_COPIES, *[SOFTMAX] * is_tied], _EMBEDDING)

    def settings_of(self, model: ModelDescription) -> Settings | None:
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
        tensors = [*shapes, *([] if is_tied else [SOFTMAX])]
        return Settings(values, "the model", frozenset(tensors))

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        is_gated, is_tied = _is_gated(settings), _is_tied(settings)
        softmax = {"tied_softmax": is_tied}
        if is_tied:
            softmax["scaled_softmax"] = _is_scaled(settings)
        elif _is_scaled(settings):
            raise settings.error("scale_decoder_outputs", UNTIED_BUT_SCALED)
        write_encoder_decoder(settings, file, self.shipped_files[is_gated], softmax)
        of_encoder, of_decoder = num_blocks(settings)
        if of_decoder != of_encoder:
            file.bind("decoder/transformer.Stack", {"num_layers": of_decoder})
        self.write_layers(settings, file)

    def write_layers(self, settings: Settings, file: GinFile) -> str:
        """Adds the settings of layers; returns the class of the feed-forward ones."""
        layer = "GatedFeedForward" if _is_gated(settings) else "FeedForward"
        if str(_activation(settings)) != _DEFAULTS[layer]:
            file.bind(f"transformer.{layer}", {"activation": _activation(settings)})
        return layer

    def table(self, settings: Settings) -> TensorTable:
        """The order of rows is that of transformers' modules."""
        size = settings.integer("vocab_size")
        rows = [Row(_EMBEDDING, "embedding/table", VocabularyRows(size))]
        for stack, number in zip(("encoder", "decoder"), num_blocks(settings), strict=True):
            for block in range(number):
                rows += self.block(settings, stack, block)
            norm = f"{stack}_stack/final_norm/scale"
            rows.append(Row(f"{stack}.final_layer_norm.weight", norm, Same()))
        if not _is_tied(settings):
            rows.append(Row(SOFTMAX, "softmax/kernel", VocabularyRows(size, transposed=True)))
        return TensorTable(rows, self.unused)

    def sublayer_path(self, settings: Settings, stack: str, block: int, sublayer: str) -> str:
        """Returns our path of a sublayer of the encoder or decoder."""
        del settings
        return f"{stack}_stack/blocks/{block}/{sublayer}"

    def bias_path(self, stack: str, block: int, attention: str) -> str | None:
        """Returns our path of a block's logits by distance; None if it has the first block's."""
        del attention
        return f"{stack}_stack/relative_bias" if block == 0 else None

    def feed_forward(
        self, settings: Settings, stack: str, block: int, theirs: str
    ) -> tuple[str, Iterator[Row]]:
        """Returns our path of a feed-forward sublayer, and its rows but for the norm's.

        theirs: such as "encoder.block.0.layer.1".
        """
        is_gated = _is_gated(settings)
        sublayer = "gated_feed_forward" if is_gated else "feed_forward"
        names = ["wi_0", "wi_1", "wo"] if is_gated else ["wi", "wo"]
        ours = self.sublayer_path(settings, stack, block, sublayer)
        return ours, kernel_rows(f"{theirs}.DenseReluDense", f"{ours}/layer", names)

    def self_attention(
        self, settings: Settings, stack: str, block: int, theirs: str
    ) -> tuple[str, Iterator[Row]]:
        """Returns our path of a self-attention sublayer, and its rows but for the norm's."""
        ours = self.sublayer_path(settings, stack, block, "self_attention")
        path = self.bias_path(stack, block, ours)
        return ours, self_attention_rows(f"{theirs}.SelfAttention", ours, path)

    def block(self, settings: Settings, stack: str, block: int) -> Iterator[Row]:
        theirs = f"{stack}.block.{block}.layer"
        ours, rows = self.self_attention(settings, stack, block, f"{theirs}.0")
        yield from rows
        yield _norm_row(f"{theirs}.0", ours)
        if stack == "decoder":
            ours = self.sublayer_path(settings, stack, block, "encoder_decoder_attention")
            yield from _attention(f"{theirs}.1.EncDecAttention", ours)
            yield _norm_row(f"{theirs}.1", ours)
        theirs = f"{theirs}.{1 if stack == 'encoder' else 2}"
        ours, rows = self.feed_forward(settings, stack, block, theirs)
        yield from rows
        yield _norm_row(theirs, ours)


class UMT5(T5):
    """mT5 with logits by distance in every block; the models with relu as well."""

    unused = ()
    shipped_files = ("models/t5.1.0.gin", "extras/huggingface/models/umt5.gin")

    def title(self, settings: Settings) -> str:
        return self.name

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if self.shipped_files[0] in file.includes:
            bias = reference("@transformer.RelativePositionBias")
            file.bind("transformer.Stack", {"relative_bias": None})
            file.bind("transformer.SelfAttention", {"relative_bias": bias})

    def bias_path(self, stack: str, block: int, attention: str) -> str | None:
        return f"{attention}/layer/relative_bias"


class T5Encoder(T5):
    """T5 without its decoder. There is no softmax in the folder: here it is the embedding."""

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_tokenizer(folder, settings, self.pad_id).with_mask(settings)]

    def ties(self, settings: Settings) -> Mapping[str, str]:
        return {"encoder.embed_tokens.weight": _EMBEDDING}

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def attention_class(self, settings: Settings) -> str:
        """Returns the name of the class of self-attention."""
        del settings
        return GLOBAL

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("pad_token_id", 0)
        file.include("extras/huggingface/models/t5_encoder.gin", "data/masked_lm.gin")
        write_text_data(file, "data/text_files.gin")
        file.gap()
        file.macro("NUM_LAYERS", settings.count("num_layers"))
        for macro in ("D_MODEL", "D_FF", "NUM_HEADS", "D_KV"):
            file.macro(macro, settings.integer(macro.lower()))
        file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
        write_row_length(settings.integer("n_positions", 512), file)
        write_distances_and_norms(settings, file)
        attention, layer = self.attention_class(settings), self.write_layers(settings, file)
        if (attention, layer) != (GLOBAL, "FeedForward"):
            layers = [reference(f"@{attention}"), reference(f"@transformer.{layer}")]
            file.bind("transformer.Stack", {"layers": layers})
        if layer != "FeedForward":
            parameters = {"d_ff": reference("%D_FF"), "dropout_rate": reference("%DROPOUT_RATE")}
            file.bind(f"transformer.{layer}", parameters)

    def table(self, settings: Settings) -> TensorTable:
        words = VocabularyRows(settings.integer("vocab_size"))
        rows = [Row(_EMBEDDING, "embedding/table", words)]
        for block in range(settings.count("num_layers")):
            rows += self.block(settings, "encoder", block)
        norm = "encoder_stack/final_norm/scale"
        rows.append(Row("encoder.final_layer_norm.weight", norm, Same()))
        return TensorTable(rows)


def _is_gated(settings: Settings) -> bool:
    text = settings.text("feed_forward_proj", "relu")
    return settings.flag("is_gated_act", default=text.startswith("gated-"))


def _activation(settings: Settings) -> Reference:
    text = settings.text("feed_forward_proj", "relu")
    # Configurations of T5 1.1 say gated-gelu, and mean the tanh form.
    name = "gelu_new" if text == "gated-gelu" else text.removeprefix("gated-")
    name = settings.text("dense_act_fn", name)
    return settings.activation("feed_forward_proj", name)


def _is_tied(settings: Settings) -> bool:
    """Transformers 5 takes the softmax's kernel if the folder has one."""
    return SOFTMAX not in settings.tensors


def _is_scaled(settings: Settings) -> bool:
    """Returns whether a tied softmax has the factor d_model ** -0.5.

    Transformers 4 scales where `tie_word_embeddings` is true. Version 5 ties always; T5 has the
    setting `scale_decoder_outputs` instead, and mT5 does not scale.
    """
    is_tied = settings.flag(_TIED, default=True)
    if settings.text("model_type") == "mt5":
        return is_tied and settings.text("transformers_version", "4").startswith("4")
    return settings.flag("scale_decoder_outputs", default=is_tied)


def num_blocks(settings: Settings) -> tuple[int, int]:
    of_encoder = settings.count("num_layers")
    return of_encoder, settings.count("num_decoder_layers", of_encoder)


def write_encoder_decoder(
    settings: Settings, file: GinFile, model: str, softmax: dict[str, bool]
) -> None:
    """Adds a shipped model, its sizes, and the parameters of `transformer.TokenEmbedding`."""
    # Id 0 is padding here, and the first input of a decoder.
    settings.require("pad_token_id", 0)
    settings.require("decoder_start_token_id", 0)
    file.include(model)
    file.include("data/pairs.gin")
    write_text_data(file, "data/tsv_pairs.gin")
    longest = settings.integer("n_positions", 512)
    file.macro("INPUTS_LENGTH", longest, "tokens of the longest texts")
    file.macro("TARGETS_LENGTH", longest)
    file.gap()
    file.macro("NUM_LAYERS", num_blocks(settings)[0])
    file.macro("D_MODEL", settings.integer("d_model"))
    file.macro("D_FF", settings.integer("d_ff"))
    file.macro("NUM_HEADS", settings.integer("num_heads"))
    file.macro("D_KV", settings.integer("d_kv"))
    file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
    write_distances_and_norms(settings, file)
    file.bind("transformer.TokenEmbedding", softmax)
    file.bind("transformer.TokenLoss", {"z_loss": 0.0}, comment="as in transformers")


def write_distances_and_norms(settings: Settings, file: GinFile) -> None:
    file.bind(
        "transformer.RelativePositionBias",
        {
            "num_buckets": settings.integer("relative_attention_num_buckets", 32),
            "max_distance": settings.integer("relative_attention_max_distance", 128),
        },
    )
    file.bind("transformer.RMSNorm", {"epsilon": settings.number("layer_norm_epsilon", 1e-6)})


def kernel_rows(theirs: str, ours: str, names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        yield Row(f"{theirs}.{name}.weight", f"{ours}/{name}/kernel", Matrix())


def self_attention_rows(theirs: str, ours: str, bias_path: str | None) -> Iterator[Row]:
    """bias_path: the path of logits by distance; None if another block has them."""
    yield from _attention(theirs, ours)
    if bias_path is not None:
        yield Row(f"{theirs}.relative_attention_bias.weight", f"{bias_path}/table", Matrix())


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    modules = [f"{theirs}.{letter}" for letter in "qkvo"]
    path = f"{ours}/layer/attention"
    return attention_rows(modules, path, use_bias=False, use_output_bias=False)


def _norm_row(theirs: str, ours: str) -> Row:
    return Row(f"{theirs}.layer_norm.weight", f"{ours}/norm/scale", Same())
