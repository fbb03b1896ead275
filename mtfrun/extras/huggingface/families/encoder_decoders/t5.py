"""T5 1.0 and 1.1, FLAN-T5, mT5, ByT5, umT5, LongT5, and encoders for text embeddings.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and arXiv:2105.13626; Chung
et al. 2023, arXiv:2304.09151; Guo et al. 2022, arXiv:2112.07916; Ni et al. 2021, arXiv:2108.08877.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GATED,
    GLOBAL,
    LAYERS,
    LOCAL,
    Blocks,
    Processor,
    TextFamily,
    classes,
)
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, TensorTable, VocabularyRows
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
_LOCAL_PARAMETERS: dict[str, object] = {
    "heads": reference("@transformer.AttentionHeads()"),
    "window": reference("%ATTENTION_WINDOW"),
    "dropout_rate": reference("%DROPOUT_RATE"),
}


class T5(TextFamily):
    """Encoder-decoders with relative biases, and RMS norms before their sublayers.

    `shipped_files` are for models with relu, and for gated models.
    """

    unused: Sequence[str] = (_BIAS,)
    shipped_files = ("models/t5.1.0.gin", "models/t5.1.1.gin")
    stacks: Sequence[str] = ("encoder", "decoder")
    feed_forward_name = "DenseReluDense"
    scaling = "scale_decoder_outputs"

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        text = settings.text("feed_forward_proj", "relu")
        self.is_gated = settings.flag("is_gated_act", default=text.startswith("gated-"))
        if name == "T5":
            self.name = "T5 1.1" if self.is_gated else "T5 1.0"
        self.feed_forward_class = GATED if self.is_gated else FEED_FORWARD
        # Configurations of T5 1.1 say gated-gelu, and mean the tanh form.
        function = "gelu_new" if text == "gated-gelu" else text.removeprefix("gated-")
        function = settings.text("dense_act_fn", function)
        self.activation = settings.activation_of("feed_forward_proj", function)

    @property
    def ties(self) -> Mapping[str, str]:
        is_tied = self.settings.flag(_TIED, default=True)
        return dict.fromkeys([*EMBEDDING_COPIES, *[SOFTMAX] * is_tied], _EMBEDDING)

    def write_gin(self, file: GinFile) -> None:
        settings = self.settings
        # Id 0 is padding and the decoder's first input.
        settings.require("pad_token_id", 0)
        settings.require("decoder_start_token_id", 0)
        is_tied = SOFTMAX not in settings.tensors
        softmax = {"tied_softmax": is_tied}
        if is_tied:
            softmax["scaled_softmax"] = self.is_scaled
        elif self.is_scaled:
            raise settings.error(self.scaling, _UNTIED_BUT_SCALED)
        file.include(self.shipped_files[self.is_gated], "data/pairs.gin")
        self.write_pairs_data(file, settings.integer("n_positions", 512))
        encoder_blocks, decoder_blocks = map(self.num_blocks, ("encoder", "decoder"))
        file.macro("NUM_LAYERS", encoder_blocks)
        self.write_t5_sizes(file)
        file.bind("transformer.TokenEmbedding", softmax)
        file.bind("transformer.TokenLoss", {"z_loss": 0.0}, comment="as in transformers")
        if decoder_blocks != encoder_blocks:
            file.bind("decoder/transformer.Stack", {"num_layers": decoder_blocks})
        self.write_layers(file)

    def write_t5_sizes(self, file: GinFile) -> None:
        """Adds sizes that encoders have too."""
        settings = self.settings
        for macro in ("D_MODEL", "D_FF", "NUM_HEADS", "D_KV"):
            file.macro(macro, settings.integer(macro.lower()))
        file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
        bias = {
            "num_buckets": settings.integer("relative_attention_num_buckets", 32),
            "max_distance": settings.integer("relative_attention_max_distance", 128),
        }
        file.bind("transformer.RelativePositionBias", bias)
        file.bind("transformer.RMSNorm", {"epsilon": settings.number("layer_norm_epsilon", 1e-6)})

    def write_layers(self, file: GinFile) -> None:
        if str(self.activation) != _DEFAULTS[self.feed_forward_class]:
            file.bind(self.feed_forward_class, {"activation": self.activation})

    def table(self) -> TensorTable:
        table, words = TensorTable(), VocabularyRows(self.settings.integer("vocab_size"))
        table.keep(*self.unused)
        self.add_embeddings(table, words)
        for stack in self.stacks:
            blocks = self.blocks(stack)
            for block in range(len(blocks.layers)):
                theirs, paths = f"{stack}.block.{block}.layer", blocks.paths(block)
                self.add_attention(table, f"{theirs}.0", paths[0], is_first=not block)
                for path in paths[1:-1]:
                    _add_projections(table, f"{theirs}.1.EncDecAttention", path)
                self.add_feed_forward(table, f"{theirs}.{len(paths) - 1}", paths[-1])
                for number, path in enumerate(paths):
                    table.norm(f"{theirs}.{number}.layer_norm", f"{path}/norm", has_bias=False)
            norm = f"{stack}_stack/final_norm"
            table.norm(f"{stack}.final_layer_norm", norm, has_bias=False)
        if "decoder" in self.stacks and SOFTMAX in self.settings.tensors:
            table.add(SOFTMAX, "softmax/kernel", VocabularyRows(words.size, transposed=True))
        return table

    def add_embeddings(self, table: TensorTable, words: VocabularyRows) -> None:
        table.add(_EMBEDDING, "embedding/table", words)

    @property
    def is_scaled(self) -> bool:
        """Whether a tied softmax has the factor d_model ** -0.5.

        transformers 4 scales with `tie_word_embeddings`; version 5 always ties, T5 has
        `scale_decoder_outputs` instead, and mT5 does not scale.
        """
        settings, is_tied = self.settings, self.settings.flag(_TIED, default=True)
        if settings.text("model_type") == "mt5":
            return is_tied and settings.text("transformers_version", "4").startswith("4")
        return settings.flag("scale_decoder_outputs", default=is_tied)

    def num_blocks(self, stack: str) -> int:
        number = self.settings.count("num_layers")
        is_encoder = stack == "encoder"
        return number if is_encoder else self.settings.count("num_decoder_layers", number)

    def blocks(self, stack: str) -> Blocks:
        attentions = [self.attention_class(stack), *[CROSS] * (stack == "decoder")]
        layer = (*attentions, self.feed_forward_class)
        return Blocks([layer] * self.num_blocks(stack), f"{stack}_stack")

    def attention_class(self, stack: str) -> str:
        return GLOBAL

    def add_attention(
        self, table: TensorTable, theirs: str, ours: str, *, is_first: bool, name: str = ""
    ) -> None:
        """Adds the tensors of "encoder.block.0.layer.0", without its norm; `name`: the module's."""
        module = f"{theirs}.{name or 'SelfAttention'}"
        _add_projections(table, module, ours)
        path = self.bias_path(ours, is_first=is_first)
        if path is not None:
            table.add(f"{module}.relative_attention_bias.weight", f"{path}/table", Matrix())

    def bias_path(self, attention: str, *, is_first: bool) -> str | None:
        """Returns our path of a block's relative bias; None if it shares the first block's."""
        return f"{attention.partition('/')[0]}/relative_bias" if is_first else None

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        """Adds the tensors of "encoder.block.0.layer.1", without its norm."""
        names = ("wi_0", "wi_1", "wo") if self.is_gated else ("wi", "wo")
        modules = [f"{theirs}.{self.feed_forward_name}.{name}" for name in names]
        table.feed_forward(modules, f"{ours}/layer", is_gated=self.is_gated, has_bias=False)


class UMT5(T5):
    """mT5, or with relu, and relative biases in every block."""

    unused = ()
    shipped_files = ("models/t5.1.0.gin", "extras/huggingface/models/umt5.gin")

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if not self.is_gated:
            bias = reference("@transformer.RelativePositionBias")
            file.bind("transformer.Stack", {"relative_bias": None})
            file.bind("transformer.SelfAttention", {"relative_bias": bias})

    def bias_path(self, attention: str, *, is_first: bool) -> str | None:
        return f"{attention}/layer/relative_bias"


class T5Encoder(T5):
    """T5's encoder; the softmax here is the embedding."""

    unused = ()
    stacks = ("encoder",)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.name += ", the encoder"

    def processors(self, folder: Folder) -> Sequence[Processor]:
        tokenizer = read_tokenizer(folder, self.settings, self.pad_id)
        return [tokenizer.with_mask(self.settings)]

    @property
    def ties(self) -> Mapping[str, str]:
        return {EMBEDDING_COPIES[0]: _EMBEDDING}

    def write_gin(self, file: GinFile) -> None:
        self.settings.require("pad_token_id", 0)
        file.include("extras/huggingface/models/t5_encoder.gin", "data/masked_lm.gin")
        self.write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks("encoder").write_gin(file, LAYERS)
        self.write_t5_sizes(file)
        self.write_row_length(file, self.settings.integer("n_positions", 512))
        T5.write_layers(self, file)
        if self.is_gated:
            parameters = {"d_ff": reference("%D_FF"), "dropout_rate": reference("%DROPOUT_RATE")}
            file.bind(GATED, parameters)


def _add_projections(table: TensorTable, theirs: str, ours: str) -> None:
    modules = [f"{theirs}.{letter}" for letter in "qkvo"]
    table.attention(modules, f"{ours}/layer/attention", biases=(False, False))


class LongT5(T5):
    """T5 1.1, or with relu, and an encoder with sparse attention."""

    shipped_files = ("extras/huggingface/models/longt5.gin",) * 2

    def __init__(self, settings: Settings, name: str) -> None:
        settings.require(_KIND, *_ATTENTION)
        self.kind = settings.text(_KIND, "local")
        super().__init__(settings, f"{name}, {self.kind}")

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        file.macro("ATTENTION_WINDOW", self.settings.integer("local_radius", 127) + 1)
        if self.kind != "local":
            file.macro("GLOBAL_BLOCK", self.settings.integer("global_block_size", 16))
            return
        file.bind(LOCAL, _LOCAL_PARAMETERS)

    def write_layers(self, file: GinFile) -> None:
        super().write_layers(file)
        for stack in self.stacks:
            layers = classes(*self.blocks(stack).sublayers)
            file.bind(f"{stack}/transformer.Stack", {"layers": layers})

    def attention_class(self, stack: str) -> str:
        return _ATTENTION[self.kind][1] if stack == "encoder" else GLOBAL

    def add_attention(
        self, table: TensorTable, theirs: str, ours: str, *, is_first: bool, name: str = ""
    ) -> None:
        is_encoder = ours.startswith("encoder")
        name = _ATTENTION[self.kind][0] if is_encoder else ""
        super().add_attention(table, theirs, ours, is_first=is_first, name=name)
        if not is_encoder or self.kind == "local":
            return
        if is_first:
            bias = f"{theirs}.{name}.global_relative_attention_bias.weight"
            table.add(bias, f"{ours}/layer/block_bias/table", Matrix())
        norm = f"{ours}/layer/block_norm"
        table.norm(f"{theirs}.{name}.global_input_layer_norm", norm, has_bias=False)


class LongT5Encoder(LongT5, T5Encoder):
    """LongT5 without its decoder, as `T5Encoder`."""

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if self.kind == "local":
            return
        blocks = {"blocks": reference("@huggingface.BlockSums()")}
        file.bind("huggingface.TransientGlobalAttention", _LOCAL_PARAMETERS | blocks)
        file.bind(
            "huggingface.BlockSums",
            {
                "size": reference("%GLOBAL_BLOCK"),
                "norm": reference("@transformer.RMSNorm"),
                "relative_bias": reference("@transformer.RelativePositionBias"),
            },
        )
