"""The base of decoder-only families: from settings to a gin file and a tensor table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GATED,
    GLOBAL,
    LAYERS,
    PARALLEL,
    Blocks,
    ModelDescription,
    TextFamily,
    parallel_paths,
    sliding_window,
    windows_in_turn,
    write_row_length,
    write_text_data,
    write_window,
)
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Flag, Settings, name_of_activation
from mtfrun.extras.huggingface.tables.tensor_table import (
    Matrix,
    Row,
    Same,
    TensorTable,
    Transform,
    VocabularyRows,
    attention_rows,
    feed_forward_rows,
    halves_of_pairs,
    norm_rows,
)

_ROTATED = ("query", "key", "query_bias", "key_bias")

RATES = ("DROPOUT_RATE", "ATTENTION_DROPOUT_RATE", "EMBEDDING_DROPOUT_RATE")
HEADS = "transformer.AttentionHeads"

Setting = tuple[str, float]
"""A setting's name, and the value of a configuration without it."""


class Decoder(TextFamily):
    """A family of decoders: names with defaults, and methods to override.

    The blocks of its gin file, `file`, have `sublayers`. `biases` are for queries, keys and values,
    and for the output; `map_biases` for feed-forward layers, which are parallel to the attention if
    `is_parallel`; the shipped file has the `usual` ones. With `has_window` all layers have a
    window, by default `default_window`; with `global_every` all but every such layer. `width` to
    `rates`, in the order of `RATES`, are names of settings; without `rotated_share` whole heads
    rotate. `embedding` to `maps` are names of tensors, in a layer from `attention_name` on; one
    projection for queries, keys and values has them head by head if `fuses_heads`; `maps` are the
    modules of the feed-forward layer. If `rotates_pairs`, entries that rotate together are
    adjacent. `head_norm` is the form of query and key norms.
    """

    pad_id = -1
    file: ClassVar[str]
    sublayers: ClassVar[Sequence[str]] = LAYERS
    feed_forward_class: ClassVar[str] = FEED_FORWARD
    norm_class: ClassVar[str] = "transformer.LayerNorm"
    biases: ClassVar[tuple[Flag, Flag]] = (True, True)
    usual_biases: ClassVar[tuple[bool, bool]] = (True, True)
    map_biases: ClassVar[Flag] = True
    usual_map_bias: ClassVar[bool] = True
    is_parallel: ClassVar[Flag] = False
    has_rotary: ClassVar[bool] = True
    is_tied_by_default: ClassVar[bool] = False
    is_grouped: ClassVar[bool] = False
    has_softmax_bias: ClassVar[bool] = False
    has_window: ClassVar[bool] = False
    default_window: ClassVar[int | None] = None
    global_every: ClassVar[int] = 0
    fuses_heads: ClassVar[bool] = False
    rotates_pairs: ClassVar[bool] = False
    local_rotary: ClassVar[str] = ""
    head_norm: ClassVar[Transform | None] = None
    matrix: ClassVar[Matrix] = Matrix()

    width: ClassVar[str] = "hidden_size"
    num_heads: ClassVar[str] = "num_attention_heads"
    num_layers: ClassVar[str] = "num_hidden_layers"
    d_ff: ClassVar[str] = "intermediate_size"
    num_positions: ClassVar[tuple[str, int]] = ("max_position_embeddings", 2048)
    epsilon: ClassVar[Setting] = ("layer_norm_eps", 1e-5)
    activation: ClassVar[tuple[str, str]] = ("hidden_act", "gelu_new")
    rotary_base: ClassVar[Setting] = ("rope_theta", 10000.0)
    rotated_share: ClassVar[Setting | None] = None
    rates: ClassVar[Sequence[str]]
    default_rate: ClassVar[float] = 0.0

    embedding: ClassVar[str] = "model.embed_tokens.weight"
    position_table: ClassVar[str] = ""
    softmax: ClassVar[str] = "lm_head"
    last_norm: ClassVar[str] = "model.norm"
    layers: ClassVar[str] = "model.layers"
    kept: ClassVar[str] = ""
    attention_name: ClassVar[str] = "self_attn"
    projections: ClassVar[Sequence[str]]
    norm_names: ClassVar[Sequence[str]]
    maps: ClassVar[Sequence[str]]

    def common_settings(self, model: ModelDescription) -> dict[str, Any] | None:
        """Returns settings of a model of ours that all decoders have, or None."""
        layer = self.feed_forward_class
        function = name_of_activation(model.parameter(layer, "activation"))
        if function is None or "embedding/table" not in model.shapes:
            return None
        return {
            "architectures": [*self.architectures],
            "model_type": self.model_types[0],
            "vocab_size": model.vocabulary_sizes["embedding/table"],
            self.width: model.shapes["embedding/table"][-1],
            self.d_ff: model.parameter(layer, "d_ff"),
            self.num_layers: model.num_blocks("decoder_stack"),
            self.num_heads: model.parameter(HEADS, "num_heads"),
            self.num_positions[0]: model.parameter("transformer.TokenEmbedding", "max_length"),
            self.epsilon[0]: model.parameter(self.norm_class, "epsilon"),
            self.activation[0]: function,
            self.rates[1]: model.parameter(GLOBAL, "dropout_rate"),
            "tie_word_embeddings": "softmax/kernel" not in model.shapes,
            "dtype": "float32",
        }

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag("tie_word_embeddings", default=self.is_tied_by_default)
        embedding = self.embedding.removeprefix(self._missing_prefix(settings))
        return {f"{self.softmax}.weight": embedding} if is_tied else {}

    def is_tied(self, settings: Settings) -> bool:
        return bool(self.ties(settings)) and f"{self.softmax}.weight" not in settings.tensors

    def module_of(self, tensor: str, settings: Settings) -> str:
        name = super().module_of(tensor, settings)
        return name if name == self.softmax else f"{self._missing_prefix(settings)}{name}"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        file.include(f"extras/huggingface/models/{self.file}.gin")
        write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks(settings).write_gin(file, self.sublayers)
        file.macro("D_MODEL", settings.integer(self.width))
        file.macro("D_FF", self.hidden_size(settings))
        self.write_heads(settings, file)
        file.macro("NORM_EPSILON", settings.number(*self.epsilon))
        self.write_rates(settings, file)
        write_row_length(settings.integer(*self.num_positions), file)
        if self.is_tied(settings) != self.is_tied_by_default:
            tied = not self.is_tied_by_default
            file.bind("transformer.TokenEmbedding", {"tied_softmax": tied})
        self.write_attention(settings, file)
        self.write_feed_forward(settings, file)
        if self.position_table:
            max_length = settings.integer(*self.num_positions)
            file.bind("transformer.TokenEmbedding", {"max_length": max_length})

    def table(self, settings: Settings) -> TensorTable:
        rows, prefix = self.rows(settings), self._missing_prefix(settings)
        return TensorTable(
            [Row([x.removeprefix(prefix) for x in r.names], r.paths, r.transform) for r in rows],
            [self.kept.removeprefix(re.escape(prefix))] if self.kept else [],
        )

    def rows(self, settings: Settings) -> list[Row]:
        """Returns the rows of the table, with names as in the model with its softmax."""
        size, softmax = settings.integer("vocab_size"), f"{self.softmax}.weight"
        rows = [Row(self.embedding, "embedding/table", VocabularyRows(size))]
        if self.position_table:
            rows.append(Row(self.position_table, "position/table", Same()))
        if not self.is_tied(settings):
            rows.append(Row(softmax, "softmax/kernel", VocabularyRows(size, transposed=True)))
        if self.has_softmax_bias:
            rows.append(Row(f"{self.softmax}.bias", "softmax/bias", VocabularyRows(size)))
        blocks = self.blocks(settings)
        for layer, names in enumerate(blocks.layers):
            theirs, outer = f"{self.layers}.{layer}", blocks.paths(layer)
            attention, feed_forward = inner = self.inner_paths(outer, names)
            rows += self.norms(settings, theirs, outer, inner)
            theirs_attention = f"{theirs}.{self.attention_name}"
            rows += self.attention(settings, theirs_attention, f"{attention}/layer/attention")
            rows += self.feed_forward(settings, theirs, f"{feed_forward}/layer")
        if self.has_last_norm(settings):
            rows += self.norm(self.last_norm, "decoder_stack/final_norm")
        return rows

    def blocks(self, settings: Settings) -> Blocks:
        if settings.is_set(self.is_parallel):
            return Blocks([(PARALLEL,)] * settings.count(self.num_layers))
        return Blocks.of_windows(self.windows(settings), self.feed_forward_class)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        """Returns the attention window of each layer; None for all positions."""
        if self.global_every:
            return windows_in_turn(settings, self.global_every)
        window = sliding_window(settings, self.default_window) if self.has_window else None
        return [window] * settings.count(self.num_layers)

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """Returns the paths of attention and feed-forward layer, within `outer`."""
        return (
            outer if len(outer) > 1 else parallel_paths(outer[0], GLOBAL, self.feed_forward_class)
        )

    def has_last_norm(self, settings: Settings) -> bool:
        return True

    def hidden_size(self, settings: Settings) -> int:
        return settings.optional_integer(self.d_ff) or 4 * settings.integer(self.width)

    def size_of_head(self, settings: Settings) -> int:
        width, heads = settings.integer(self.width), settings.integer(self.num_heads)
        if width % heads:
            raise settings.error(self.num_heads, f"must divide {width}, the size of all heads")
        settings.require("head_dim", width // heads)
        return width // heads

    def memory_heads(self, settings: Settings) -> int:
        heads = settings.integer(self.num_heads)
        return settings.integer("num_key_value_heads", heads) if self.is_grouped else heads

    def biases_of(self, settings: Settings) -> tuple[bool, bool]:
        """Whether queries, keys and values have biases, and whether the output has one."""
        inputs, output = self.biases
        return settings.is_set(inputs), settings.is_set(output)

    def write_heads(self, settings: Settings, file: GinFile) -> None:
        file.macro("NUM_HEADS", settings.integer(self.num_heads))
        file.macro("D_KV", self.size_of_head(settings))
        if self.is_grouped:
            file.macro("NUM_MEMORY_HEADS", self.memory_heads(settings))

    def write_rates(self, settings: Settings, file: GinFile) -> None:
        for macro, name in zip(RATES, self.rates, strict=False):
            if name:
                file.macro(macro, settings.number(name, self.default_rate))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        """Adds biases, positions and windows."""
        use_bias, use_output_bias = biases = self.biases_of(settings)
        if biases != self.usual_biases:
            parameters = {"use_bias": use_bias, "use_output_bias": use_output_bias}
            file.bind(HEADS, parameters)
        if self.has_rotary:
            self.write_rotary(settings, file)
        local = {"rotary": reference(f"@{self.local_rotary}()")} if self.local_rotary else {}
        write_window(self.windows(settings), file, local)

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        if self.rotated_share is None:
            rotary.require_whole_heads()
        else:
            file.macro("ROTATED", self.num_rotated(settings))
        file.macro("ROTARY_BASE", rotary.base(*self.rotary_base))
        rotary.write_scaling(file)

    def num_rotated(self, settings: Settings) -> int | None:
        """Returns the number of rotated entries of a head; None for all."""
        if self.rotated_share is None:
            return None
        return Rotary.of(settings).rotated(self.size_of_head(settings), *self.rotated_share)

    def function(self, settings: Settings) -> str:
        """Returns transformers' name of the activation function."""
        return settings.text(*self.activation)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        setting, usual = self.activation
        function = settings.activation_of(setting, self.function(settings))
        if str(function) != str(settings.activation_of(setting, usual)):
            file.bind(self.feed_forward_class, {"activation": function})
        if settings.is_set(self.map_biases) != self.usual_map_bias:
            file.bind(self.feed_forward_class, {"use_bias": not self.usual_map_bias})

    def norm(self, theirs: str, ours: str) -> Iterator[Row]:
        return norm_rows(theirs, ours)

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        """Yields the norms of a layer; `inner`: the paths of attention and maps."""
        ours = ("norm",) if len(self.norm_names) <= 2 else ("norm_0", "norm_1")
        paths = [f"{path}/{name}" for path in outer for name in ours]
        for name, path in zip(self.norm_names, paths, strict=False):
            yield from self.norm(f"{theirs}.{name}", path)

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of "model.layers.0.self_attn"."""
        use_bias, use_output_bias = self.biases_of(settings)
        rows = attention_rows(
            [f"{theirs}.{name}" for name in self.projections],
            ours,
            use_bias=use_bias,
            use_output_bias=use_output_bias,
            # With grouped heads, our output kernel has the inputs {memory_heads, heads, d_kv}.
            inputs=2 if self.memory_heads(settings) in (1, settings.integer(self.num_heads)) else 3,
            kernel=self.matrix,
            heads=self.memory_heads(settings) if self.fuses_heads else 1,
        )
        if self.rotates_pairs:
            order = self.order_of_pairs(settings)
            for row in rows:
                is_rotated = row.paths[0].rpartition("/")[2] in _ROTATED
                yield row.in_order(order) if is_rotated else row
        else:
            yield from rows
        if self.head_norm is not None:
            for name in ("query", "key"):
                norm = f"{theirs}.{name[0]}_norm.weight"
                yield Row(norm, f"{ours}/{name}_norm/scale", self.head_norm)

    def order_of_pairs(self, settings: Settings) -> Callable[[int], Sequence[int]]:
        rotated = self.num_rotated(settings)
        return lambda size: halves_of_pairs(rotated or size, size)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of the feed-forward layer of "model.layers.0", without its norm."""
        return feed_forward_rows(
            [f"{theirs}.{name}" for name in self.maps],
            ours,
            is_gated=self.feed_forward_class == GATED,
            has_bias=settings.is_set(self.map_biases),
            kernel=self.matrix,
        )

    def _missing_prefix(self, settings: Settings) -> str:
        """Returns the prefix that names lack in folders of models without a softmax."""
        prefix = f"{self.embedding.partition('.')[0]}."
        return prefix if self.embedding.removeprefix(prefix) in settings.tensors else ""
