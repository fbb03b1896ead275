"""GPT-2 and GPT-Neo.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Black et al. 2021,
https://doi.org/10.5281/zenodo.5297715.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    GLOBAL,
    Blocks,
    ModelDescription,
    TextFamily,
    write_row_length,
    write_text_data,
    write_window,
)
from mtfrun.extras.huggingface.tables.settings import Settings, name_of_activation
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    Joined,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    norm_rows,
)

_SOFTMAX = "lm_head.weight"
_FEED_FORWARD, _HEADS = "transformer.FeedForward", "transformer.AttentionHeads"
# Logits of layer i have the factor 1 / (i + 1).
_BY_LAYER = "scale_attn_by_inverse_layer_idx"


class GPT2(TextFamily):
    """Learned positions, layer norms, biases; matrices are [in, out], and one has three parts.

    `width` to `rates` are names of settings with their defaults; `masks` are in older files.
    """

    model_types: ClassVar[Sequence[str]] = ("gpt2",)
    architectures: ClassVar[Sequence[str]] = ("GPT2LMHeadModel",)
    name: ClassVar[str] = "GPT-2"
    pad_id: ClassVar[int] = -1
    width: ClassVar[str] = "n_embd"
    num_heads: ClassVar[str] = "n_head"
    d_ff: ClassVar[str] = "n_inner"
    num_positions: ClassVar[tuple[str, int]] = ("n_positions", 1024)
    rates: ClassVar[Sequence[tuple[str, float]]] = (
        ("resid_pdrop", 0.1),
        ("attn_pdrop", 0.1),
        ("embd_pdrop", 0.1),
    )
    matrix: ClassVar[Matrix] = Matrix(transposed=False)
    masks: ClassVar[str] = r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        if not settings.flag("tie_word_embeddings", default=True):
            return {}
        return {_SOFTMAX: f"{_prefix(settings)}wte.weight"}

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
        width, num_heads = settings.integer(self.width), settings.integer(self.num_heads)
        blocks = self.blocks(settings)
        file.include("extras/huggingface/models/gpt2.gin")
        write_text_data(file, "data/text_files.gin")
        file.gap()
        if width % num_heads:
            raise settings.error(self.num_heads, f"must divide {width}, the size of all heads")
        blocks.write_gin(file, (GLOBAL, _FEED_FORWARD))
        file.macro("D_MODEL", width)
        file.macro("D_FF", settings.optional_integer(self.d_ff) or 4 * width)
        file.macro("NUM_HEADS", num_heads)
        file.macro("D_KV", width // num_heads)
        file.macro("NORM_EPSILON", settings.number("layer_norm_epsilon", 1e-5))
        name = settings.text("activation_function", "gelu_new")
        function = settings.activation("activation_function", name)
        if str(function) != "@mtf.gelu":
            file.bind("transformer.FeedForward", {"activation": function})
        rate, *others = (settings.number(*setting) for setting in self.rates)
        file.macro("DROPOUT_RATE", rate)
        for macro, other in zip(("ATTENTION", "EMBEDDING"), others, strict=True):
            if other != rate:
                file.macro(f"{macro}_DROPOUT_RATE", other)
        max_positions = settings.integer(*self.num_positions)
        write_row_length(max_positions, file)
        parameters: dict[str, object] = {"max_length": max_positions}
        if not self._is_tied(settings):
            parameters["tied_softmax"] = False
        file.bind("transformer.TokenEmbedding", parameters)
        self.write_attention(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        size, prefix = settings.integer("vocab_size"), _prefix(settings)
        rows = [
            Row(f"{prefix}wte.weight", "embedding/table", VocabularyRows(size)),
            Row(f"{prefix}wpe.weight", "position/table", Same()),
        ]
        if not self._is_tied(settings):
            rows.append(Row(_SOFTMAX, "softmax/kernel", VocabularyRows(size, transposed=True)))
        blocks = self.blocks(settings)
        for layer in range(len(blocks.layers)):
            theirs = f"{prefix}h.{layer}"
            attention, feed_forward = blocks.paths(layer)
            rows += norm_rows(f"{theirs}.ln_1", f"{attention}/norm")
            rows += self.attention(f"{theirs}.attn", f"{attention}/layer/attention")
            rows += norm_rows(f"{theirs}.ln_2", f"{feed_forward}/norm")
            for name, ours in (("c_fc", "wi"), ("c_proj", "wo")):
                path = f"{feed_forward}/layer/{ours}"
                rows.append(Row(f"{theirs}.mlp.{name}.weight", f"{path}/kernel", self.matrix))
                rows.append(Row(f"{theirs}.mlp.{name}.bias", f"{path}/bias", Same()))
        rows += norm_rows(f"{prefix}ln_f", "decoder_stack/final_norm")
        return TensorTable(rows, [self.masks])

    def module_of(self, tensor: str, settings: Settings) -> str:
        name = super().module_of(tensor, settings)
        return name if _prefix(settings) or tensor == _SOFTMAX else f"transformer.{name}"

    def blocks(self, settings: Settings) -> Blocks:
        number = settings.count("n_layer")
        if not settings.flag(_BY_LAYER, default=False):
            return Blocks([(GLOBAL, _FEED_FORWARD)] * number)
        return Blocks([(f"layer_{layer}/{GLOBAL}", _FEED_FORWARD) for layer in range(number)])

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        settings.require("add_cross_attention", *(False,))
        is_scaled = settings.flag("scale_attn_weights", default=True)
        if settings.flag(_BY_LAYER, default=False):
            size = settings.integer(self.width) // settings.integer(self.num_heads)
            factor = size**-0.5 if is_scaled else 1.0
            for layer in range(settings.count("n_layer")):
                scope = f"layer_{layer}/"
                heads = reference(f"@{scope}{_HEADS}()")
                file.bind(f"{scope}{GLOBAL}", {"heads": heads})
                file.bind(f"{scope}{_HEADS}", {"scaled_logits": factor / (layer + 1)})
        elif not is_scaled:
            file.bind(_HEADS, {"scaled_logits": False})

    def attention(self, theirs: str, ours: str) -> Iterator[Row]:
        names = ("query", "key", "value")
        kernels, biases = Joined(1, self.matrix), Joined(0, Flat())
        yield Row(f"{theirs}.c_attn.weight", [f"{ours}/{name}" for name in names], kernels)
        yield Row(f"{theirs}.c_attn.bias", [f"{ours}/{name}_bias" for name in names], biases)
        yield Row(f"{theirs}.c_proj.weight", f"{ours}/output", Matrix(inputs=2, transposed=False))
        yield Row(f"{theirs}.c_proj.bias", f"{ours}/output_bias", Same())

    def _is_tied(self, settings: Settings) -> bool:
        return bool(self.ties(settings)) and _SOFTMAX not in settings.tensors


def _prefix(settings: Settings) -> str:
    """Folders of the model without its softmax have no prefix."""
    return "" if "wte.weight" in settings.tensors else "transformer."


_GLOBAL, _LOCAL = "global", "local"


class GPTNeo(GPT2):
    """GPT-2 whose layers attend to everything or to a window, with logits that are not scaled."""

    model_types: ClassVar[Sequence[str]] = ("gpt_neo",)
    architectures: ClassVar[Sequence[str]] = ("GPTNeoForCausalLM",)
    name: ClassVar[str] = "GPT-Neo"
    width: ClassVar[str] = "hidden_size"
    num_heads: ClassVar[str] = "num_heads"
    d_ff: ClassVar[str] = "intermediate_size"
    num_positions: ClassVar[tuple[str, int]] = ("max_position_embeddings", 2048)
    rates: ClassVar[Sequence[tuple[str, float]]] = (
        ("resid_dropout", 0.0),
        ("attention_dropout", 0.0),
        ("embed_dropout", 0.0),
    )
    matrix: ClassVar[Matrix] = Matrix()
    masks: ClassVar[str] = r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias"

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks.of_windows(self.windows(settings), _FEED_FORWARD)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        """Returns the positions that each layer attends to, None for all of them."""
        number = settings.count("num_layers")
        kinds = _kinds(settings, number + 1)
        if len(kinds) != number:
            raise settings.error("attention_types", f"must describe {number} layers")
        window = settings.integer("window_size", 256) if _LOCAL in kinds else None
        return [window if kind == _LOCAL else None for kind in kinds]

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        file.bind("transformer.AttentionHeads", {"scaled_logits": False, "use_bias": False})
        write_window(self.windows(settings), file, {})

    def attention(self, theirs: str, ours: str) -> Iterator[Row]:
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield Row(f"{theirs}.attention.{letter}_proj.weight", f"{ours}/{name}", Matrix())
        yield Row(f"{theirs}.attention.out_proj.weight", f"{ours}/output", Matrix(inputs=2))
        yield Row(f"{theirs}.attention.out_proj.bias", f"{ours}/output_bias", Same())


def _kinds(settings: Settings, most: int) -> list[str]:
    """Returns "global" or "local" for every layer, of [[[kinds in turn], how often], ...]."""
    name = "attention_types"
    types = settings.values.get(name)
    if types is None:
        types = [[[_GLOBAL, _LOCAL], 12]]
    try:
        all_kinds = (kind for in_turn, times in types for _ in range(times) for kind in in_turn)
        kinds = list(itertools.islice(all_kinds, most))
    except (TypeError, ValueError) as error:
        raise settings.error(name, "must be a list of [[kinds in turn], how often]") from error
    if any(kind not in (_GLOBAL, _LOCAL) for kind in kinds):
        raise settings.error(name, f"must be of the kinds {_GLOBAL} and {_LOCAL}")
    return kinds
