"""T5 1.0 and 1.1, FLAN-T5, mT5, ByT5.

Raffel et al. 2020, arXiv:1910.10683; Xue et al. 2021, arXiv:2010.11934 and arXiv:2105.13626.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.conversion.gin_text import GinFile, Reference
from mtfrun.conversion.hugging_face.activations import activation
from mtfrun.conversion.hugging_face.data_text import write_pairs
from mtfrun.conversion.hugging_face.folder import Folder
from mtfrun.conversion.hugging_face.settings import Settings
from mtfrun.conversion.hugging_face.tensor_table import (
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    row,
)
from mtfrun.conversion.hugging_face.tokenizer import Tokenizer, read_tokenizer


class T5:
    """Encoder-decoders with logits by distance, and RMS norms before their sublayers."""

    model_types: ClassVar[Sequence[str]] = ("t5", "mt5")
    architectures: ClassVar[Sequence[str]] = (
        "T5ForConditionalGeneration",
        "MT5ForConditionalGeneration",
    )

    def title(self, settings: Settings) -> str:
        """Returns the name for users."""
        return "T5 1.1" if _is_gated(settings) else "T5 1.0"

    def processor(self, folder: Folder, settings: Settings) -> Tokenizer:
        """Returns the tokenizer."""
        return read_tokenizer(folder, settings)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        """Adds models/t5.1.1.gin or t5.1.0.gin, sizes, and what differs."""
        settings.require("pad_token_id", 0)
        settings.require("decoder_start_token_id", 0)
        file.include("models/t5.1.1.gin" if _is_gated(settings) else "models/t5.1.0.gin")
        write_pairs(file)
        file.gap()
        file.macro("NUM_LAYERS", settings.integer("num_layers"))
        file.macro("D_MODEL", settings.integer("d_model"))
        file.macro("D_FF", settings.integer("d_ff"))
        file.macro("NUM_HEADS", settings.integer("num_heads"))
        file.macro("D_KV", settings.integer("d_kv"))
        file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
        num_decoder_layers = settings.optional_integer("num_decoder_layers")
        if num_decoder_layers not in (None, settings.integer("num_layers")):
            file.bind("decoder/transformer.Stack", {"num_layers": num_decoder_layers})
        file.bind(
            "transformer.RelativePositionBias",
            {
                "num_buckets": settings.integer("relative_attention_num_buckets", 32),
                "max_distance": settings.integer("relative_attention_max_distance", 128),
            },
        )
        file.bind("transformer.RMSNorm", {"epsilon": settings.number("layer_norm_epsilon", 1e-6)})
        file.bind("transformer.TokenEmbedding", {"tied_softmax": _is_tied(settings)})
        file.bind("transformer.TokenLoss", {"z_loss": 0.0}, comment="as transformers; T5 had 1e-4")
        layer = "GatedFeedForward" if _is_gated(settings) else "FeedForward"
        file.bind(f"transformer.{layer}", {"activation": _activation(settings)})

    def table(self, settings: Settings) -> TensorTable:
        """Returns the tensors."""
        size = settings.integer("vocab_size")
        rows = [row("shared.weight", "embedding/table", VocabularyRows(size))]
        copies = {
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
        }
        if _is_tied(settings):
            copies["lm_head.weight"] = "shared.weight"
        else:
            kernel = VocabularyRows(size, transposed=True)
            rows.append(row("lm_head.weight", "softmax/kernel", kernel))
        layers = settings.integer("num_layers")
        rows += _stack(settings, "encoder", layers)
        rows += _stack(
            settings, "decoder", settings.optional_integer("num_decoder_layers") or layers
        )
        # Checkpoints of T5 1.0 have it, and nothing uses it.
        kept = [r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"]
        return TensorTable(rows, copies, kept)


def _stack(settings: Settings, stack: str, num_layers: int) -> Iterator[Row]:
    """Yields the rows of the encoder or the decoder."""
    ours = f"{stack}_stack"
    yield row(
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"{ours}/relative_bias/table",
        Matrix(),
    )
    yield row(f"{stack}.final_layer_norm.weight", f"{ours}/final_norm/scale", Same())
    for block in range(num_layers):
        attentions = [("SelfAttention", "self_attention")]
        if stack == "decoder":
            attentions.append(("EncDecAttention", "encoder_decoder_attention"))
        theirs, path = f"{stack}.block.{block}.layer", f"{ours}/blocks/{block}"
        for i, (name, sublayer) in enumerate(attentions):
            yield from _attention(f"{theirs}.{i}.{name}", f"{path}/{sublayer}/layer/attention")
            yield _norm(f"{theirs}.{i}", f"{path}/{sublayer}")
        last = f"{theirs}.{len(attentions)}"
        sublayer, matrices = "feed_forward", ["wi", "wo"]
        if _is_gated(settings):
            sublayer, matrices = "gated_feed_forward", ["wi_0", "wi_1", "wo"]
        for name in matrices:
            kernel = f"{path}/{sublayer}/layer/{name}/kernel"
            yield row(f"{last}.DenseReluDense.{name}.weight", kernel, Matrix())
        yield _norm(last, f"{path}/{sublayer}")


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    """Yields the four projections of a layer."""
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield row(f"{theirs}.{letter}.weight", f"{ours}/{name}", Matrix())
    yield row(f"{theirs}.o.weight", f"{ours}/output", Matrix(inputs=2))


def _norm(theirs: str, ours: str) -> Row:
    return row(f"{theirs}.layer_norm.weight", f"{ours}/norm/scale", Same())


def _projection(settings: Settings) -> tuple[bool, str]:
    """Returns whether feed-forward layers are gated, and the name of their activation."""
    text = settings.text("feed_forward_proj", "relu")
    is_gated, name = text.startswith("gated-"), text.removeprefix("gated-")
    # Configurations of T5 1.1 say gated-gelu, and mean the tanh form.
    return is_gated, "gelu_new" if text == "gated-gelu" else name


def _is_gated(settings: Settings) -> bool:
    return _projection(settings)[0]


def _activation(settings: Settings) -> Reference:
    return activation(settings, "feed_forward_proj", _projection(settings)[1])


def _is_tied(settings: Settings) -> bool:
    return settings.flag("tie_word_embeddings", default=True)
