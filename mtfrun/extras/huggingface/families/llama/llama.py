"""Llama, Mistral and Qwen2: rotary positions, RMS norms, gated feed-forward layers.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Jiang et al. 2023, arXiv:2310.06825;
Yang et al. 2024, arXiv:2407.10671.
"""

from __future__ import annotations

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
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings, name_of_activation
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
)

_EMBEDDING, _SOFTMAX = "model.embed_tokens.weight", "lm_head.weight"
FULL, SLIDING = "full_attention", "sliding_attention"


class Llama(TextFamily):
    """Llama 1, 2 and 3; a subclass has another file or sublayers, or more of both.

    `sublayers` are a block's in `shipped_file`; `rotary_base` to `is_tied_by_default` are
    the values of settings that a configuration does not have; `usual_activation` is the file's.
    """

    model_types: ClassVar[Sequence[str]] = ("llama",)
    architectures: ClassVar[Sequence[str]] = ("LlamaForCausalLM",)
    name: ClassVar[str] = "Llama"
    pad_id: ClassVar[int] = -1
    shipped_file: ClassVar[str] = "extras/huggingface/models/llama.gin"
    feed_forward_class: ClassVar[str] = "transformer.GatedFeedForward"
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, feed_forward_class)
    rotary_base: ClassVar[float] = 10000.0
    head_size: ClassVar[int | None] = None
    epsilon_setting: ClassVar[str] = "rms_norm_eps"
    epsilon: ClassVar[float] = 1e-6
    max_positions: ClassVar[int] = 2048
    is_tied_by_default: ClassVar[bool] = False
    activation_setting: ClassVar[str] = "hidden_act"
    usual_activation: ClassVar[str] = "silu"
    local_rotary: ClassVar[str] = ROTARY

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag("tie_word_embeddings", default=self.is_tied_by_default)
        return {_SOFTMAX: _EMBEDDING} if is_tied else {}

    def settings_of(self, model: ModelDescription) -> Settings | None:
        base = model.parameter("transformer.RotaryPositions", "base")
        num_heads, memory_heads, d_kv, use_bias = (
            model.parameter("transformer.AttentionHeads", name)
            for name in ("num_heads", "num_memory_heads", "d_kv", "use_bias")
        )
        d_ff, function, mlp_bias = (
            model.parameter("transformer.GatedFeedForward", name)
            for name in ("d_ff", "activation", "use_bias")
        )
        name = name_of_activation(function)
        if None in (base, num_heads, name):
            return None
        values = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": model.vocabulary_sizes["embedding/table"],
            "hidden_size": model.shapes["embedding/table"][-1],
            "intermediate_size": d_ff,
            "num_hidden_layers": model.num_blocks("decoder_stack"),
            "num_attention_heads": num_heads,
            "num_key_value_heads": memory_heads or num_heads,
            "head_dim": d_kv,
            "hidden_act": name,
            "rms_norm_eps": model.parameter("transformer.RMSNorm", "epsilon"),
            "rope_theta": base,
            "rope_parameters": {"rope_type": "default", "rope_theta": base},
            "max_position_embeddings": model.parameter("transformer.TokenEmbedding", "max_length"),
            "attention_dropout": model.parameter("transformer.SelfAttention", "dropout_rate"),
            "attention_bias": use_bias,
            "mlp_bias": mlp_bias,
            "tie_word_embeddings": "softmax/kernel" not in model.shapes,
            "dtype": "float32",
        }
        return Settings(values, "the model")

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        file.include(self.shipped_file)
        write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks(settings).write_gin(file, self.sublayers)
        file.macro("D_MODEL", settings.integer("hidden_size"))
        file.macro("D_FF", settings.integer("intermediate_size"))
        self.write_heads(settings, file)
        self.write_rotary(settings, file)
        file.macro("NORM_EPSILON", settings.number(self.epsilon_setting, self.epsilon))
        file.macro("ATTENTION_DROPOUT_RATE", settings.number("attention_dropout", 0.0))
        write_row_length(settings.integer("max_position_embeddings", self.max_positions), file)
        if self.is_tied(settings) != self.is_tied_by_default:
            tied = not self.is_tied_by_default
            file.bind("transformer.TokenEmbedding", {"tied_softmax": tied})
        use_bias, use_output_bias = self.biases(settings)
        if use_bias:
            biases = {"use_bias": use_bias, "use_output_bias": use_output_bias}
            file.bind("transformer.AttentionHeads", biases)
        local = {"rotary": reference(f"@{self.local_rotary}()")}
        write_window(self.windows(settings), file, local)
        self.write_feed_forward(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        size = settings.integer("vocab_size")
        rows = [Row(_EMBEDDING, "embedding/table", VocabularyRows(size))]
        if not self.is_tied(settings):
            kernel = VocabularyRows(size, transposed=True)
            rows.append(Row(_SOFTMAX, "softmax/kernel", kernel))
        blocks = self.blocks(settings)
        for layer in range(len(blocks.layers)):
            theirs, outer = f"model.layers.{layer}", blocks.paths(layer)
            attention, feed_forward = inner = self.inner_paths(outer, blocks.layers[layer])
            rows += self.norms(theirs, outer, inner)
            rows += self.attention(settings, f"{theirs}.self_attn", f"{attention}/layer/attention")
            rows += self.feed_forward(settings, theirs, f"{feed_forward}/layer")
        rows += self.final_norm()
        # Buffers of frequencies in files of earlier versions.
        return TensorTable(rows, [r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"])

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks.of_windows(self.windows(settings), self.feed_forward_class)

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """Returns the paths of attention and feed-forward layer within the sublayers of a layer.

        names: the sublayers in gin, at the paths `outer`.
        """
        return outer

    def is_tied(self, settings: Settings) -> bool:
        return bool(self.ties(settings)) and _SOFTMAX not in settings.tensors

    def write_heads(self, settings: Settings, file: GinFile) -> None:
        heads = settings.integer("num_attention_heads")
        file.macro("NUM_HEADS", heads)
        file.macro("NUM_MEMORY_HEADS", settings.integer("num_key_value_heads", heads))
        file.macro("D_KV", self.size_of_head(settings))

    def size_of_head(self, settings: Settings) -> int:
        """The size of a head need not be the model's size divided by the heads."""
        heads = settings.integer("num_attention_heads")
        size = settings.optional_integer("head_dim") or self.head_size
        size = size or settings.integer("hidden_size") // heads
        if not size:
            raise settings.error("num_attention_heads", "is larger than hidden_size")
        return size

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        rotary.require_whole_heads()
        file.macro("ROTARY_BASE", rotary.base(self.rotary_base))
        rotary.write_scaling(file)

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the result has one."""
        has_bias = settings.flag("attention_bias", default=False)
        return has_bias, has_bias

    def windows(self, settings: Settings) -> Sequence[int | None]:
        """Returns the positions that each layer attends to, None for all of them."""
        return [None] * settings.count("num_hidden_layers")

    def activation(self, settings: Settings) -> str:
        """Returns transformers' name of the activation function."""
        return settings.text(self.activation_setting, self.usual_activation)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        setting = self.activation_setting
        parameters: dict[str, object] = {}
        function = settings.activation(setting, self.activation(settings))
        if str(function) != str(settings.activation(setting, self.usual_activation)):
            parameters["activation"] = function
        if settings.flag("mlp_bias", default=False):
            parameters["use_bias"] = True
        if parameters:
            file.bind(self.feed_forward_class, parameters)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of the feed-forward layer "model.layers.0", without its norm."""
        for their_name, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
            prefix = f"{theirs}.mlp.{their_name}_proj"
            yield Row(f"{prefix}.weight", f"{ours}/{name}/kernel", Matrix())
            if settings.flag("mlp_bias", default=False):
                yield Row(f"{prefix}.bias", f"{ours}/{name}/bias", Same())

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        """Yields the norms of the layer "model.layers.0", whose sublayers have these paths."""
        for name, path in zip(("input", "post_attention"), outer, strict=True):
            yield Row(f"{theirs}.{name}_layernorm.weight", f"{path}/norm/scale", Same())

    def final_norm(self) -> Iterator[Row]:
        yield Row("model.norm.weight", "decoder_stack/final_norm/scale", Same())

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of "model.layers.0.self_attn"."""
        use_bias, use_output_bias = self.biases(settings)
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield Row(f"{theirs}.{letter}_proj.weight", f"{ours}/{name}", Matrix())
            if use_bias:
                yield Row(f"{theirs}.{letter}_proj.bias", f"{ours}/{name}_bias", Flat())
        # Its inputs are heads and their size, with the queries of a group between them.
        yield Row(
            f"{theirs}.o_proj.weight", f"{ours}/output", Matrix(inputs=output_inputs(settings))
        )
        if use_output_bias:
            yield Row(f"{theirs}.o_proj.bias", f"{ours}/output_bias", Same())


class Mistral(Llama):
    """Llama with a window in all layers, or in none."""

    model_types: ClassVar[Sequence[str]] = ("mistral",)
    architectures: ClassVar[Sequence[str]] = ("MistralForCausalLM",)
    name: ClassVar[str] = "Mistral"
    default_window: ClassVar[int | None] = 4096

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return False, False

    def windows(self, settings: Settings) -> Sequence[int | None]:
        window = sliding_window(settings, self.default_window)
        return [window] * settings.count("num_hidden_layers")


class Qwen2(Llama):
    """Llama with biases of queries, keys and values, and with a window in some layers."""

    model_types: ClassVar[Sequence[str]] = ("qwen2",)
    architectures: ClassVar[Sequence[str]] = ("Qwen2ForCausalLM",)
    name: ClassVar[str] = "Qwen2"

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return True, False

    def windows(self, settings: Settings) -> Sequence[int | None]:
        number = settings.count("num_hidden_layers")
        is_local = settings.flag("use_sliding_window", default=False)
        window = sliding_window(settings, 4096) if is_local else None
        if window is None:
            return [None] * number
        if settings.values.get("layer_types") is None:
            first = settings.values.get("max_window_layers", 28)
            if type(first) is not int:
                raise settings.error("max_window_layers", "must be an integer")
            return [window if layer >= first else None for layer in range(number)]
        return windows_by_type(settings, window)


def windows_by_type(settings: Settings, window: int) -> list[int | None]:
    """Returns the window of each layer, by "layer_types"."""
    number, kinds = settings.count("num_hidden_layers"), settings.values.get("layer_types")
    if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
        raise settings.error("layer_types", f"must be a list of {FULL} and {SLIDING}")
    if len(kinds) != number:
        raise settings.error("layer_types", f"must have {number} entries")
    return [window if kind == SLIDING else None for kind in kinds]


def windows_in_turn(settings: Settings, every: int) -> list[int | None]:
    """Returns the window of each layer: by "layer_types", or of all but `every` so many layers."""
    number, window = settings.count("num_hidden_layers"), sliding_window(settings, 4096)
    if window is None:
        return [None] * number
    if settings.values.get("layer_types") is None:
        every = settings.integer("sliding_window_pattern", every)
        return [window if (layer + 1) % every else None for layer in range(number)]
    return windows_by_type(settings, window)


def sliding_window(settings: Settings, default: int | None) -> int | None:
    if "sliding_window" not in settings.values:
        return default
    return settings.optional_integer("sliding_window")


def output_inputs(settings: Settings) -> int:
    """Our output kernel has {memory_heads, heads, d_kv} as inputs if there are groups of heads."""
    heads = settings.integer("num_attention_heads")
    memory_heads = settings.integer("num_key_value_heads", heads)
    return 2 if memory_heads in (1, heads) else 3
