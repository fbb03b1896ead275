"""T5 1.0 and 1.1, FLAN-T5, mT5, ByT5, umT5, LongT5, and encoders for text embeddings.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and arXiv:2105.13626; Chung
et al. 2023, arXiv:2304.09151; Guo et al. 2022, arXiv:2112.07916; Ni et al. 2021, arXiv:2108.08877.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GATED,
    GLOBAL,
    LAYERS,
    LOCAL,
    Blocks,
    ModelDescription,
    Processor,
    TextFamily,
    classes,
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
    feed_forward_rows,
)
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer

# Unused in checkpoints of T5 1.0.
_BIAS = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
# Tied in all models.
_EMBEDDING = "shared.weight"
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
SOFTMAX = "lm_head.weight"
CROSS = "transformer.EncoderDecoderAttention"
_UNTIED_BUT_SCALED = (
    "scales the logits of a separate softmax, lm_head, which is not supported: train with "
    "tie_word_embeddings=false, or without lm_head"
)
_TIED = "tie_word_embeddings"
# Default activations of our layers.
_DEFAULTS = {FEED_FORWARD: "@mtf.relu", GATED: "@mtf.gelu"}
_KIND = "encoder_attention_type"
# transformers' class and ours by kind of attention.
_ATTENTION = {
    "local": ("LocalSelfAttention", LOCAL),
    "transient-global": ("TransientGlobalSelfAttention", "huggingface.TransientGlobalAttention"),
}


class T5(TextFamily):
    """Encoder-decoders with relative biases, and RMS norms before their sublayers.

    `shipped_files` are for models with relu, and for gated models.
    """

    unused: ClassVar[Sequence[str]] = (_BIAS,)
    shipped_files: ClassVar[tuple[str, str]] = ("models/t5.1.0.gin", "models/t5.1.1.gin")
    stacks: ClassVar[Sequence[str]] = ("encoder", "decoder")
    feed_forward_name: ClassVar[str] = "DenseReluDense"
    scaling: ClassVar[str] = "scale_decoder_outputs"

    def title(self, settings: Settings) -> str:
        if settings.text("model_type") == "mt5":
            return "mT5"
        return "T5 1.1" if self.is_gated(settings) else "T5 1.0"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag(_TIED, default=True)
        return dict.fromkeys([*EMBEDDING_COPIES, *[SOFTMAX] * is_tied], _EMBEDDING)

    def settings_of(self, model: ModelDescription) -> Settings | None:
        shapes = model.shapes
        query = shapes.get("encoder_stack/blocks/0/self_attention/layer/attention/query", ())
        is_gated = any("gated_feed_forward" in path for path in shapes)
        layer = GATED if is_gated else FEED_FORWARD
        function = model.parameter(f"encoder/{layer}", "activation")
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
        # Only their number and the softmax matter.
        tensors = [*shapes, *([] if is_tied else [SOFTMAX])]
        return Settings(values, "the model", frozenset(tensors))

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        # Id 0 is padding and the decoder's first input.
        settings.require("pad_token_id", 0)
        settings.require("decoder_start_token_id", 0)
        is_tied = SOFTMAX not in settings.tensors
        softmax = {"tied_softmax": is_tied}
        if is_tied:
            softmax["scaled_softmax"] = self.is_scaled(settings)
        elif self.is_scaled(settings):
            raise settings.error(self.scaling, _UNTIED_BUT_SCALED)
        file.include(self.shipped_files[self.is_gated(settings)], "data/pairs.gin")
        write_text_data(file, "data/tsv_pairs.gin")
        longest = settings.integer("n_positions", 512)
        file.macro("INPUTS_LENGTH", longest, "tokens of the longest texts")
        file.macro("TARGETS_LENGTH", longest)
        file.gap()
        encoder_blocks, decoder_blocks = (num_blocks(settings, x) for x in ("encoder", "decoder"))
        file.macro("NUM_LAYERS", encoder_blocks)
        _write_sizes(settings, file)
        file.bind("transformer.TokenEmbedding", softmax)
        file.bind("transformer.TokenLoss", {"z_loss": 0.0}, comment="as in transformers")
        if decoder_blocks != encoder_blocks:
            file.bind("decoder/transformer.Stack", {"num_layers": decoder_blocks})
        self.write_layers(settings, file)

    def write_layers(self, settings: Settings, file: GinFile) -> None:
        layer = GATED if self.is_gated(settings) else FEED_FORWARD
        if str(_activation(settings)) != _DEFAULTS[layer]:
            file.bind(layer, {"activation": _activation(settings)})

    def table(self, settings: Settings) -> TensorTable:
        words = VocabularyRows(settings.integer("vocab_size"))
        rows = [Row(_EMBEDDING, "embedding/table", words)]
        for stack in self.stacks:
            blocks = self.blocks(settings, stack)
            for block in range(len(blocks.layers)):
                theirs, paths = f"{stack}.block.{block}.layer", blocks.paths(block)
                rows += self.self_attention(settings, f"{theirs}.0", paths[0], is_first=not block)
                for path in paths[1:-1]:
                    rows += _attention(f"{theirs}.1.EncDecAttention", path)
                rows += self.feed_forward(settings, f"{theirs}.{len(paths) - 1}", paths[-1])
                for number, path in enumerate(paths):
                    norm = f"{theirs}.{number}.layer_norm.weight"
                    rows.append(Row(norm, f"{path}/norm/scale", Same()))
            norm = f"{stack}_stack/final_norm/scale"
            rows.append(Row(f"{stack}.final_layer_norm.weight", norm, Same()))
        if "decoder" in self.stacks and SOFTMAX in settings.tensors:
            kernel = VocabularyRows(words.size, transposed=True)
            rows.append(Row(SOFTMAX, "softmax/kernel", kernel))
        return TensorTable(rows, self.unused)

    def is_gated(self, settings: Settings) -> bool:
        text = settings.text("feed_forward_proj", "relu")
        return settings.flag("is_gated_act", default=text.startswith("gated-"))

    def is_scaled(self, settings: Settings) -> bool:
        """Returns whether a tied softmax has the factor d_model ** -0.5.

        transformers 4 scales with `tie_word_embeddings`; version 5 always ties, T5 has
        `scale_decoder_outputs` instead, and mT5 does not scale.
        """
        is_tied = settings.flag(_TIED, default=True)
        if settings.text("model_type") == "mt5":
            return is_tied and settings.text("transformers_version", "4").startswith("4")
        return settings.flag("scale_decoder_outputs", default=is_tied)

    def blocks(self, settings: Settings, stack: str) -> Blocks:
        attentions = [self.attention_class(settings, stack), *[CROSS] * (stack == "decoder")]
        layer = (*attentions, GATED if self.is_gated(settings) else FEED_FORWARD)
        return Blocks([layer] * num_blocks(settings, stack), f"{stack}_stack")

    def attention_class(self, settings: Settings, stack: str) -> str:
        return GLOBAL

    def self_attention(
        self, settings: Settings, theirs: str, ours: str, *, is_first: bool
    ) -> Iterator[Row]:
        """Yields the tensors of "encoder.block.0.layer.0", without its norm."""
        yield from self.self_attention_rows(f"{theirs}.SelfAttention", ours, is_first=is_first)

    def self_attention_rows(self, theirs: str, ours: str, *, is_first: bool) -> Iterator[Row]:
        yield from _attention(theirs, ours)
        path = self.bias_path(ours, is_first=is_first)
        if path is not None:
            yield Row(f"{theirs}.relative_attention_bias.weight", f"{path}/table", Matrix())

    def bias_path(self, attention: str, *, is_first: bool) -> str | None:
        """Returns our path of a block's relative bias; None if it shares the first block's."""
        return f"{attention.partition('/')[0]}/relative_bias" if is_first else None

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of "encoder.block.0.layer.1", without its norm."""
        is_gated = self.is_gated(settings)
        names = ("wi_0", "wi_1", "wo") if is_gated else ("wi", "wo")
        modules = [f"{theirs}.{self.feed_forward_name}.{name}" for name in names]
        return feed_forward_rows(modules, f"{ours}/layer", is_gated=is_gated, has_bias=False)


class UMT5(T5):
    """mT5, or with relu, and relative biases in every block."""

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

    def bias_path(self, attention: str, *, is_first: bool) -> str | None:
        return f"{attention}/layer/relative_bias"


class T5Encoder(T5):
    """T5's encoder; the softmax here is the embedding."""

    unused = ()
    stacks = ("encoder",)

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_tokenizer(folder, settings, self.pad_id).with_mask(settings)]

    def ties(self, settings: Settings) -> Mapping[str, str]:
        return {EMBEDDING_COPIES[0]: _EMBEDDING}

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("pad_token_id", 0)
        file.include("extras/huggingface/models/t5_encoder.gin", "data/masked_lm.gin")
        write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks(settings, "encoder").write_gin(file, LAYERS)
        _write_sizes(settings, file)
        write_row_length(settings.integer("n_positions", 512), file)
        self.write_layers(settings, file)
        if self.is_gated(settings):
            parameters = {"d_ff": reference("%D_FF"), "dropout_rate": reference("%DROPOUT_RATE")}
            file.bind(GATED, parameters)


def _activation(settings: Settings) -> Reference:
    text = settings.text("feed_forward_proj", "relu")
    # Configurations of T5 1.1 say gated-gelu, and mean the tanh form.
    name = "gelu_new" if text == "gated-gelu" else text.removeprefix("gated-")
    name = settings.text("dense_act_fn", name)
    return settings.activation_of("feed_forward_proj", name)


def num_blocks(settings: Settings, stack: str) -> int:
    number = settings.count("num_layers")
    return number if stack == "encoder" else settings.count("num_decoder_layers", number)


def _write_sizes(settings: Settings, file: GinFile) -> None:
    """Adds sizes that encoders have too."""
    for macro in ("D_MODEL", "D_FF", "NUM_HEADS", "D_KV"):
        file.macro(macro, settings.integer(macro.lower()))
    file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
    file.bind(
        "transformer.RelativePositionBias",
        {
            "num_buckets": settings.integer("relative_attention_num_buckets", 32),
            "max_distance": settings.integer("relative_attention_max_distance", 128),
        },
    )
    file.bind("transformer.RMSNorm", {"epsilon": settings.number("layer_norm_epsilon", 1e-6)})


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    modules, path = [f"{theirs}.{letter}" for letter in "qkvo"], f"{ours}/layer/attention"
    return attention_rows(modules, path, use_bias=False, use_output_bias=False)


class LongT5(T5):
    """T5 1.1, or with relu, and an encoder with sparse attention."""

    shipped_files = ("extras/huggingface/models/longt5.gin",) * 2

    def title(self, settings: Settings) -> str:
        return f"LongT5, {_kind(settings)}"

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("ATTENTION_WINDOW", settings.integer("local_radius", 127) + 1)
        if _kind(settings) != "local":
            file.macro("GLOBAL_BLOCK", settings.integer("global_block_size", 16))
            return
        file.bind(LOCAL, _parameters())

    def write_layers(self, settings: Settings, file: GinFile) -> None:
        super().write_layers(settings, file)
        for stack in self.stacks:
            layers = classes(*self.blocks(settings, stack).sublayers)
            file.bind(f"{stack}/transformer.Stack", {"layers": layers})

    def attention_class(self, settings: Settings, stack: str) -> str:
        return _ATTENTION[_kind(settings)][1] if stack == "encoder" else GLOBAL

    def self_attention(
        self, settings: Settings, theirs: str, ours: str, *, is_first: bool
    ) -> Iterator[Row]:
        if not ours.startswith("encoder"):
            yield from super().self_attention(settings, theirs, ours, is_first=is_first)
            return
        theirs = f"{theirs}.{_ATTENTION[_kind(settings)][0]}"
        yield from self.self_attention_rows(theirs, ours, is_first=is_first)
        if _kind(settings) == "local":
            return
        if is_first:
            table = f"{theirs}.global_relative_attention_bias.weight"
            yield Row(table, f"{ours}/layer/block_bias/table", Matrix())
        norm = f"{ours}/layer/block_norm/scale"
        yield Row(f"{theirs}.global_input_layer_norm.weight", norm, Same())


class LongT5Encoder(LongT5, T5Encoder):
    """LongT5 without its decoder, as `T5Encoder`."""

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if _kind(settings) == "local":
            return
        blocks = {"blocks": reference("@huggingface.BlockSums()")}
        file.bind("huggingface.TransientGlobalAttention", _parameters() | blocks)
        file.bind(
            "huggingface.BlockSums",
            {
                "size": reference("%GLOBAL_BLOCK"),
                "norm": reference("@transformer.RMSNorm"),
                "relative_bias": reference("@transformer.RelativePositionBias"),
            },
        )

    def write_layers(self, settings: Settings, file: GinFile) -> None:
        T5Encoder.write_layers(self, settings, file)


def _parameters() -> dict[str, object]:
    return {
        "heads": reference("@transformer.AttentionHeads()"),
        "window": reference("%ATTENTION_WINDOW"),
        "dropout_rate": reference("%DROPOUT_RATE"),
    }


def _kind(settings: Settings) -> str:
    settings.require(_KIND, *_ATTENTION)
    return settings.text(_KIND, "local")
