"""GPT-2; Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.activations import activation, name_of_activation
from mtfrun.tools.conversion.hugging_face.families.decoder_only import Blocks, write_row_length
from mtfrun.tools.conversion.hugging_face.family import TextFamily, write_text_data
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import (
    Flat,
    Joined,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    row,
)
from mtfrun.tools.conversion.model_description import ModelDescription

_FEED_FORWARD = "transformer.FeedForward"
_SOFTMAX = "lm_head.weight"


class GPT2(TextFamily):
    """Learned positions, layer norms, biases; matrices are [in, out], and one has three parts."""

    model_types: ClassVar[Sequence[str]] = ("gpt2",)
    architectures: ClassVar[Sequence[str]] = ("GPT2LMHeadModel",)
    pad_id: ClassVar[int] = -1

    def title(self, settings: Settings) -> str:
        return "GPT-2"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        return ties(settings)

    def settings_of(self, model: ModelDescription) -> Settings | None:
        epsilon = model.parameter("transformer.LayerNorm", "epsilon")
        name = name_of_activation(model.parameter("transformer.FeedForward", "activation"))
        positions = model.shapes.get("position/table")
        if positions is None or None in (epsilon, name) or model.num_blocks("encoder_stack"):
            return None
        dropout = model.parameter("transformer.SublayerDropout", "rate")
        embedding = model.parameter("embedding/transformer.SublayerDropout", "rate")
        values = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": model.vocabulary_sizes["embedding/table"],
            "n_positions": positions[0],
            "n_embd": positions[-1],
            "n_layer": model.num_blocks("decoder_stack"),
            "n_head": model.parameter("transformer.AttentionHeads", "num_heads"),
            "n_inner": model.parameter("transformer.FeedForward", "d_ff"),
            "activation_function": name,
            "layer_norm_epsilon": epsilon,
            "resid_pdrop": dropout,
            "embd_pdrop": dropout if embedding is None else embedding,
            "attn_pdrop": model.parameter("transformer.SelfAttention", "dropout_rate"),
            "scale_attn_weights": model.parameter("transformer.AttentionHeads", "scaled_logits"),
            "tie_word_embeddings": "softmax/kernel" not in model.shapes,
            "dtype": "float32",
        }
        return Settings(values, "the model")

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        for name in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
            settings.require(name, *(False,))
        width, heads = settings.integer("n_embd"), settings.integer("n_head")
        d_ff = settings.optional_integer("n_inner") or 4 * width
        write_sizes(settings, file, self._blocks(settings), (width, heads, d_ff))
        write_dropout(
            file,
            settings.number("resid_pdrop", 0.1),
            settings.number("attn_pdrop", 0.1),
            settings.number("embd_pdrop", 0.1),
        )
        write_embedding(settings, file, settings.integer("n_positions", 1024))
        if not settings.flag("scale_attn_weights", default=True):
            file.bind("transformer.AttentionHeads", {"scaled_logits": False})

    def table(self, settings: Settings) -> TensorTable:
        rows, prefix = embedding_rows(settings), name_prefix(settings)
        blocks = self._blocks(settings)
        for layer in range(len(blocks.windows)):
            theirs = f"{prefix}h.{layer}"
            attention, feed_forward = blocks.paths(layer)
            rows += norm_rows(f"{theirs}.ln_1", f"{attention}/norm")
            rows += _attention(f"{theirs}.attn", f"{attention}/layer/attention")
            rows += norm_rows(f"{theirs}.ln_2", f"{feed_forward}/norm")
            rows += feed_forward_rows(
                f"{theirs}.mlp", f"{feed_forward}/layer", Matrix(transposed=False)
            )
        rows += norm_rows(f"{prefix}ln_f", "decoder_stack/final_norm")
        # Masks in files of earlier versions.
        return TensorTable(rows, [r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"])

    def _blocks(self, settings: Settings) -> Blocks:
        return Blocks([False] * settings.count("n_layer"), _FEED_FORWARD)


def write_sizes(
    settings: Settings, file: GinFile, blocks: Blocks, sizes: tuple[int, int, int]
) -> None:
    width, heads, d_ff = sizes
    file.include("models/gpt2.gin")
    write_text_data(file, "data/text_files.gin")
    file.gap()
    if width % heads:
        name = "n_head" if "n_head" in settings.values else "num_heads"
        raise settings.error(name, f"must divide {width}, the size of all heads")
    blocks.write_gin(file)
    file.macro("D_MODEL", width)
    file.macro("D_FF", d_ff)
    file.macro("NUM_HEADS", heads)
    file.macro("D_KV", width // heads)
    file.macro("NORM_EPSILON", settings.number("layer_norm_epsilon", 1e-5))
    name = settings.text("activation_function", "gelu_new")
    function = activation(settings, "activation_function", name)
    if str(function) != "@mtf.gelu":
        file.bind("transformer.FeedForward", {"activation": function})


def write_dropout(file: GinFile, rate: float, attention_rate: float, input_rate: float) -> None:
    file.macro("DROPOUT_RATE", rate)
    if attention_rate != rate:
        file.macro("ATTENTION_DROPOUT_RATE", attention_rate)
    if input_rate != rate:
        file.macro("EMBEDDING_DROPOUT_RATE", input_rate)


def write_embedding(settings: Settings, file: GinFile, max_positions: int) -> None:
    write_row_length(max_positions, file)
    parameters: dict[str, object] = {"max_length": max_positions}
    if not _is_tied(settings):
        parameters["tied_softmax"] = False
    file.bind("transformer.TokenEmbedding", parameters)


def name_prefix(settings: Settings) -> str:
    """Folders of the model without its softmax have no prefix."""
    return "" if "wte.weight" in settings.tensors else "transformer."


def ties(settings: Settings) -> Mapping[str, str]:
    if not settings.flag("tie_word_embeddings", default=True):
        return {}
    return {_SOFTMAX: f"{name_prefix(settings)}wte.weight"}


def embedding_rows(settings: Settings) -> list[Row]:
    size, prefix = settings.integer("vocab_size"), name_prefix(settings)
    rows = [
        row(f"{prefix}wte.weight", "embedding/table", VocabularyRows(size)),
        row(f"{prefix}wpe.weight", "position/table", Same()),
    ]
    if _is_tied(settings):
        return rows
    return [*rows, row(_SOFTMAX, "softmax/kernel", VocabularyRows(size, transposed=True))]


def norm_rows(theirs: str, ours: str) -> Iterator[Row]:
    yield row(f"{theirs}.weight", f"{ours}/scale", Same())
    yield row(f"{theirs}.bias", f"{ours}/bias", Same())


def feed_forward_rows(theirs: str, ours: str, matrix: Matrix) -> Iterator[Row]:
    for their_name, name in (("c_fc", "wi"), ("c_proj", "wo")):
        yield row(f"{theirs}.{their_name}.weight", f"{ours}/{name}/kernel", matrix)
        yield row(f"{theirs}.{their_name}.bias", f"{ours}/{name}/bias", Same())


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    names = ("query", "key", "value")
    kernels, biases = Joined(1, Matrix(transposed=False)), Joined(0, Flat())
    yield row(f"{theirs}.c_attn.weight", [f"{ours}/{name}" for name in names], kernels)
    yield row(f"{theirs}.c_attn.bias", [f"{ours}/{name}_bias" for name in names], biases)
    yield row(f"{theirs}.c_proj.weight", f"{ours}/output", Matrix(inputs=2, transposed=False))
    yield row(f"{theirs}.c_proj.bias", f"{ours}/output_bias", Same())


def _is_tied(settings: Settings) -> bool:
    return bool(ties(settings)) and _SOFTMAX not in settings.tensors
