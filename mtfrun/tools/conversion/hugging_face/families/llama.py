"""Llama, Mistral and Qwen2: rotary positions, RMS norms, gated feed-forward layers.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288; Jiang et al. 2023, arXiv:2310.06825;
Yang et al. 2024, arXiv:2407.10671.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.layers import yarn_magnitude
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.family import (
    Blocks,
    ModelDescription,
    TextFamily,
    write_row_length,
    write_text_data,
)
from mtfrun.tools.conversion.hugging_face.settings import Settings, name_of_activation
from mtfrun.tools.conversion.hugging_face.tensor_table import (
    Flat,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
)

_EMBEDDING, _SOFTMAX = "model.embed_tokens.weight", "lm_head.weight"
_FULL, _SLIDING = "full_attention", "sliding_attention"


class Llama(TextFamily):
    """Llama 1, 2 and 3; a subclass has another file or sublayer."""

    model_types: ClassVar[Sequence[str]] = ("llama",)
    architectures: ClassVar[Sequence[str]] = ("LlamaForCausalLM",)
    name: ClassVar[str] = "Llama"
    pad_id: ClassVar[int] = -1
    rotary_base: ClassVar[float] = 10000.0
    shipped_file: ClassVar[str] = "models/llama.gin"
    sublayer: ClassVar[str] = "transformer.GatedFeedForward"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag("tie_word_embeddings", default=False)
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
        heads = settings.integer("num_attention_heads")
        blocks = self._blocks(settings)
        blocks.write_gin(file)
        file.macro("D_MODEL", settings.integer("hidden_size"))
        file.macro("D_FF", settings.integer("intermediate_size"))
        file.macro("NUM_HEADS", heads)
        file.macro("NUM_MEMORY_HEADS", settings.integer("num_key_value_heads", heads))
        file.macro("D_KV", _head_size(settings))
        file.macro("ROTARY_BASE", _rotary_base(settings, self.rotary_base))
        file.macro("NORM_EPSILON", settings.number("rms_norm_eps", 1e-6))
        file.macro("ATTENTION_DROPOUT_RATE", settings.number("attention_dropout", 0.0))
        write_row_length(settings.integer("max_position_embeddings", 2048), file)
        if self._is_tied(settings):
            file.bind("transformer.TokenEmbedding", {"tied_softmax": True})
        use_bias, use_output_bias = self.biases(settings)
        if use_bias:
            biases = {"use_bias": use_bias, "use_output_bias": use_output_bias}
            file.bind("transformer.AttentionHeads", biases)
        rotary = {"rotary": reference("@transformer.RotaryPositions()")}
        blocks.write_window(file, rotary)
        _write_rotary_scaling(settings, file)
        self.write_feed_forward(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        size = settings.integer("vocab_size")
        rows = [Row(_EMBEDDING, "embedding/table", VocabularyRows(size))]
        if not self._is_tied(settings):
            kernel = VocabularyRows(size, transposed=True)
            rows.append(Row(_SOFTMAX, "softmax/kernel", kernel))
        blocks = self._blocks(settings)
        for layer in range(len(blocks.windows)):
            theirs = f"model.layers.{layer}"
            attention, feed_forward = blocks.paths(layer)
            rows.append(Row(f"{theirs}.input_layernorm.weight", f"{attention}/norm/scale", Same()))
            rows += self._attention(settings, f"{theirs}.self_attn", f"{attention}/layer/attention")
            norm = f"{theirs}.post_attention_layernorm.weight"
            rows.append(Row(norm, f"{feed_forward}/norm/scale", Same()))
            rows += self.feed_forward(settings, theirs, f"{feed_forward}/layer")
        rows.append(Row("model.norm.weight", "decoder_stack/final_norm/scale", Same()))
        # Buffers of frequencies in files of earlier versions.
        return TensorTable(rows, [r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"])

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the result has one."""
        has_bias = settings.flag("attention_bias", default=False)
        return has_bias, has_bias

    def windows(self, settings: Settings) -> Sequence[int | None]:
        """Returns the positions that each layer attends to, None for all of them."""
        return [None] * settings.count("num_hidden_layers")

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        name = settings.text("hidden_act", "silu")
        parameters: dict[str, object] = {}
        if name not in ("silu", "swish"):
            parameters["activation"] = settings.activation("hidden_act", name)
        if settings.flag("mlp_bias", default=False):
            parameters["use_bias"] = True
        if parameters:
            file.bind(self.sublayer, parameters)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of the feed-forward layer "model.layers.0", without its norm."""
        for their_name, name in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo")):
            prefix = f"{theirs}.mlp.{their_name}_proj"
            yield Row(f"{prefix}.weight", f"{ours}/{name}/kernel", Matrix())
            if settings.flag("mlp_bias", default=False):
                yield Row(f"{prefix}.bias", f"{ours}/{name}/bias", Same())

    def _is_tied(self, settings: Settings) -> bool:
        return bool(self.ties(settings)) and _SOFTMAX not in settings.tensors

    def _blocks(self, settings: Settings) -> Blocks:
        return Blocks(self.windows(settings), self.sublayer)

    def _attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        use_bias, use_output_bias = self.biases(settings)
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield Row(f"{theirs}.{letter}_proj.weight", f"{ours}/{name}", Matrix())
            if use_bias:
                yield Row(f"{theirs}.{letter}_proj.bias", f"{ours}/{name}_bias", Flat())
        # Its inputs are heads and their size, with the queries of a group between them.
        yield Row(
            f"{theirs}.o_proj.weight", f"{ours}/output", Matrix(inputs=_output_inputs(settings))
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
        window = _sliding_window(settings, self.default_window)
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
        window = _sliding_window(settings, 4096) if is_local else None
        if window is None:
            return [None] * number
        kinds = settings.values.get("layer_types")
        if kinds is None:
            first = settings.values.get("max_window_layers", 28)
            if type(first) is not int:
                raise settings.error("max_window_layers", "must be an integer")
            return [window if layer >= first else None for layer in range(number)]
        if not isinstance(kinds, list) or any(kind not in (_FULL, _SLIDING) for kind in kinds):
            raise settings.error("layer_types", f"must be a list of {_FULL} and {_SLIDING}")
        if len(kinds) != number:
            raise settings.error("layer_types", f"must have {number} entries")
        return [window if kind == _SLIDING else None for kind in kinds]


def _sliding_window(settings: Settings, default: int | None) -> int | None:
    if "sliding_window" not in settings.values:
        return default
    return settings.optional_integer("sliding_window")


def _head_size(settings: Settings) -> int:
    """The size of a head need not be the model's size divided by the heads."""
    heads = settings.integer("num_attention_heads")
    size = settings.optional_integer("head_dim") or settings.integer("hidden_size") // heads
    if not size:
        raise settings.error("num_attention_heads", "is larger than hidden_size")
    return size


def _output_inputs(settings: Settings) -> int:
    """Our output kernel has {memory_heads, heads, d_kv} as inputs if there are groups of heads."""
    heads = settings.integer("num_attention_heads")
    memory_heads = settings.integer("num_key_value_heads", heads)
    return 2 if memory_heads in (1, heads) else 3


def _rotary_parameters(settings: Settings) -> tuple[str, Settings]:
    """Returns the name of the setting, which version 5 of transformers has renamed, and values."""
    name = "rope_parameters" if settings.values.get("rope_parameters") else "rope_scaling"
    values = settings.values.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping) or any(isinstance(v, Mapping) for v in values.values()):
        raise settings.error(name, "must be the parameters of all layers, by name")
    return name, Settings(values, f"{settings.where}: {name}")


def _rotary_base(settings: Settings, default: float) -> float:
    _, parameters = _rotary_parameters(settings)
    if parameters.values.get("rope_theta") is not None:
        return parameters.number("rope_theta")
    return settings.number("rope_theta", default)


def _write_rotary_scaling(settings: Settings, file: GinFile) -> None:
    """Adds changes of the frequencies of `transformer.RotaryPositions`, if there are any."""
    name, parameters = _rotary_parameters(settings)
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind not in _SCALINGS:
        known = ", ".join(_SCALINGS)
        raise settings.error(name, f"has a type that is not supported; supported: {known}")
    parameters.require("partial_rotary_factor", None, 1, 1.0)
    cls = _SCALINGS[kind]
    if cls is None:
        settings.require("partial_rotary_factor", None, 1, 1.0)
        return
    file.bind("transformer.RotaryPositions", {"scaling": reference(f"@{cls}()")})
    file.bind(cls, _scaling(kind, parameters, settings))


# Our classes by the type in transformers.
_SCALINGS = {
    "default": None,
    "linear": "transformer.LinearScaling",
    "llama3": "transformer.Llama3Scaling",
    "yarn": "transformer.YarnScaling",
}


def _scaling(kind: str, parameters: Settings, settings: Settings) -> dict[str, Any]:
    if kind == "linear":
        return {"factor": parameters.number("factor")}
    if kind == "llama3":
        return {
            "factor": parameters.number("factor"),
            "low_frequency_factor": parameters.number("low_freq_factor"),
            "high_frequency_factor": parameters.number("high_freq_factor"),
            "original_length": _original_length(parameters, settings),
        }
    original_length = _original_length(parameters, settings)
    longest = settings.optional_integer("max_position_embeddings") or original_length
    factor = parameters.number("factor", longest / original_length)
    arguments = {
        "factor": factor,
        "original_length": original_length,
        "slow_turns": parameters.number("beta_slow", 1.0),
        "fast_turns": parameters.number("beta_fast", 32.0),
        "whole_pairs": parameters.flag("truncate", default=True),
    }
    share, of_all = (parameters.values.get(name) for name in ("mscale", "mscale_all_dim"))
    if parameters.values.get("attention_factor") is not None:
        arguments["attention_factor"] = parameters.number("attention_factor")
    elif share and of_all:
        share, of_all = parameters.number("mscale"), parameters.number("mscale_all_dim")
        ratio = yarn_magnitude(factor, share) / yarn_magnitude(factor, of_all)
        arguments["attention_factor"] = ratio
    return arguments


def _original_length(parameters: Settings, settings: Settings) -> int:
    """The model's setting goes first, as in transformers."""
    name = "original_max_position_embeddings"
    if settings.values.get(name) is not None:
        return settings.integer(name)
    return parameters.optional_integer(name) or settings.integer("max_position_embeddings")
