"""The base of decoder-only families: from settings to a gin file and a tensor table."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GATED,
    GLOBAL,
    LAYERS,
    PARALLEL,
    Blocks,
    TextFamily,
    parallel_paths,
)
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    TensorTable,
    Transform,
    VocabularyRows,
    halves_of_pairs,
)

RATES = ("DROPOUT_RATE", "ATTENTION_DROPOUT_RATE", "EMBEDDING_DROPOUT_RATE")
HEADS = "transformer.AttentionHeads"

Setting = tuple[str, float]
"""A setting's name, and the value of a configuration without it."""


class Decoder(TextFamily):
    """A family of decoders: names with defaults, and methods to override.

    The blocks of its gin file, `file`, have `sublayers`. `biases` are for queries, keys and values,
    and for the output; `map_biases` for feed-forward layers, which are parallel to the attention if
    `is_parallel`; the shipped file has the `usual` ones. With `has_window` layers have a
    window, by default `default_window`; with `global_every` all but every such layer. `width` to
    `rates`, in the order of `RATES`, are names of settings; without `rotated_share` whole heads
    rotate. `embedding` to `maps` are names of tensors, in a layer from `attention_name` on; one
    projection for queries, keys and values has them head by head if `fuses_heads`; `maps` are the
    modules of the feed-forward layer. If `rotates_pairs`, entries that rotate together are
    adjacent. `head_norm` is the form of query and key norms.
    """

    pad_id = -1
    file: str
    sublayers: Sequence[str] = LAYERS
    feed_forward_class = FEED_FORWARD
    biases: tuple[Flag, Flag] = (True, True)
    usual_biases = (True, True)
    map_biases: Flag = True
    usual_map_bias = True
    is_parallel: Flag = False
    has_rotary = True
    is_tied_by_default = False
    is_grouped = False
    has_softmax_bias = False
    has_norm_bias = True
    has_last_norm = True
    has_window: Flag = False
    default_window: int | None = 4096
    global_every = 0
    fuses_heads = False
    rotates_pairs = False
    local_rotary = ""
    head_norm: Transform | None = None
    is_transposed = True

    width = "hidden_size"
    num_heads = "num_attention_heads"
    d_ff = "intermediate_size"
    num_positions = ("max_position_embeddings", 2048)
    epsilon: Setting = ("layer_norm_eps", 1e-5)
    activation = ("hidden_act", "gelu_new")
    rotary_base: Setting = ("rope_theta", 10000.0)
    rotated_share: Setting | None = None
    rates: Sequence[str]
    default_rate = 0.0

    embedding = "model.embed_tokens"
    position_table = ""
    softmax = "lm_head"
    last_norm = "model.norm"
    layers = "model.layers"
    kept = ""
    attention_name = "self_attn"
    projections: Sequence[str] = ("q_proj", "k_proj", "v_proj", "o_proj")
    norm_names: Sequence[str]
    maps: Sequence[str]

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        # Names of models without a softmax have no prefix.
        prefix, embedding = f"{self.embedding.partition('.')[0]}.", f"{self.embedding}.weight"
        self.missing = prefix if embedding.removeprefix(prefix) in settings.tensors else ""
        self.is_tied = bool(self.ties) and f"{self.softmax}.weight" not in settings.tensors
        inputs, output = map(settings.is_set, self.biases)
        self.has_biases = inputs, output

    @property
    def ties(self) -> Mapping[str, str]:
        is_tied = self.settings.flag("tie_word_embeddings", default=self.is_tied_by_default)
        embedding = f"{self.embedding}.weight".removeprefix(self.missing)
        return {f"{self.softmax}.weight": embedding} if is_tied else {}

    def module_of(self, tensor: str) -> str:
        name = super().module_of(tensor)
        return name if name == self.softmax else f"{self.missing}{name}"

    def write_gin(self, file: GinFile) -> None:
        settings = self.settings
        file.include(f"extras/huggingface/models/{self.file}.gin")
        self.write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks.write_gin(file, self.sublayers)
        file.macro("D_MODEL", settings.integer(self.width))
        file.macro("D_FF", self.hidden_size)
        self.write_heads(file)
        file.macro("NORM_EPSILON", settings.number(*self.epsilon))
        self.write_rates(file)
        max_length = settings.integer(*self.num_positions)
        self.write_row_length(file, max_length)
        if self.is_tied != self.is_tied_by_default:
            file.bind("transformer.TokenEmbedding", {"tied_softmax": self.is_tied})
        self.write_attention(file)
        self.write_feed_forward(file)
        if self.position_table:
            file.bind("transformer.TokenEmbedding", {"max_length": max_length})

    def table(self) -> TensorTable:
        table = TensorTable(self.missing, transposed=self.is_transposed)
        size = self.settings.integer("vocab_size")
        if self.kept:
            table.keep(self.kept)
        table.add(f"{self.embedding}.weight", "embedding/table", VocabularyRows(size))
        if self.position_table:
            table.add(f"{self.position_table}.weight", "position/table")
        if not self.is_tied:
            kernel = VocabularyRows(size, transposed=True)
            table.add(f"{self.softmax}.weight", "softmax/kernel", kernel)
        if self.has_softmax_bias:
            table.add(f"{self.softmax}.bias", "softmax/bias", VocabularyRows(size))
        for layer, names in enumerate(self.blocks.layers):
            theirs, outer = f"{self.layers}.{layer}", self.blocks.paths(layer)
            attention, feed_forward = inner = self.inner_paths(outer, names)
            self.add_norms(table, theirs, outer, inner)
            theirs_attention = f"{theirs}.{self.attention_name}"
            self.add_attention(table, theirs_attention, f"{attention}/layer/attention")
            self.add_feed_forward(table, theirs, f"{feed_forward}/layer")
        if self.has_last_norm:
            self.add_norm(table, self.last_norm, "decoder_stack/final_norm")
        return table

    @functools.cached_property
    def blocks(self) -> Blocks:
        if self.settings.is_set(self.is_parallel):
            return Blocks([(PARALLEL,)] * self.settings.count(self.num_layers))
        return Blocks.of_windows(self.windows, self.feed_forward_class)

    @property
    def window(self) -> int | None:
        if not self.settings.is_set(self.has_window):
            return None
        if "sliding_window" not in self.settings.values:
            return self.default_window
        return self.settings.optional_integer("sliding_window")

    def is_local(self, layer: int) -> bool:
        every = self.global_every
        every = every and self.settings.integer("sliding_window_pattern", every)
        return not every or (layer + 1) % every != 0

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        """Returns the paths of attention and feed-forward layer, within `outer`."""
        if len(outer) > 1:
            return outer
        return parallel_paths(outer[0], GLOBAL, self.feed_forward_class)

    @property
    def hidden_size(self) -> int:
        return self.settings.optional_integer(self.d_ff) or 4 * self.settings.integer(self.width)

    @property
    def size_of_head(self) -> int:
        width, heads = self.settings.integer(self.width), self.settings.integer(self.num_heads)
        if width % heads:
            raise self.settings.error(self.num_heads, f"must divide {width}, the size of all heads")
        self.settings.require("head_dim", width // heads)
        return width // heads

    @property
    def memory_heads(self) -> int:
        heads = self.settings.integer(self.num_heads)
        return self.settings.integer("num_key_value_heads", heads) if self.is_grouped else heads

    def write_heads(self, file: GinFile) -> None:
        file.macro("NUM_HEADS", self.settings.integer(self.num_heads))
        file.macro("D_KV", self.size_of_head)
        if self.is_grouped:
            file.macro("NUM_MEMORY_HEADS", self.memory_heads)

    def write_rates(self, file: GinFile) -> None:
        for macro, name in zip(RATES, self.rates, strict=False):
            if name:
                file.macro(macro, self.settings.number(name, self.default_rate))

    def write_attention(self, file: GinFile) -> None:
        """Adds biases, positions and windows."""
        use_bias, use_output_bias = self.has_biases
        if self.has_biases != self.usual_biases:
            file.bind(HEADS, {"use_bias": use_bias, "use_output_bias": use_output_bias})
        if self.has_rotary:
            self.write_rotary(file)
        local = {"rotary": reference(f"@{self.local_rotary}()")} if self.local_rotary else {}
        self.write_windows(file, local)

    def write_rotary(self, file: GinFile) -> None:
        rotary = Rotary.of(self.settings)
        if self.rotated_share is None:
            rotary.require_whole_heads()
        else:
            file.macro("ROTATED", self.num_rotated)
        file.macro("ROTARY_BASE", rotary.base(*self.rotary_base))
        rotary.write_scaling(file)

    @property
    def num_rotated(self) -> int | None:
        """The number of rotated entries of a head; None for all."""
        if self.rotated_share is None:
            return None
        return Rotary.of(self.settings).rotated(self.size_of_head, *self.rotated_share)

    @property
    def function(self) -> str:
        """The name in transformers of the activation function."""
        return self.settings.text(*self.activation)

    def write_feed_forward(self, file: GinFile) -> None:
        setting, usual = self.activation
        function = self.settings.activation_of(setting, self.function)
        if str(function) != str(self.settings.activation_of(setting, usual)):
            file.bind(self.feed_forward_class, {"activation": function})
        if self.settings.is_set(self.map_biases) != self.usual_map_bias:
            file.bind(self.feed_forward_class, {"use_bias": not self.usual_map_bias})

    def add_norm(self, table: TensorTable, theirs: str, ours: str) -> None:
        table.norm(theirs, ours, has_bias=self.has_norm_bias)

    def add_norms(
        self, table: TensorTable, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> None:
        """Adds the norms of a layer; `inner`: the paths of attention and maps."""
        ours = ("norm",) if len(self.norm_names) <= 2 else ("norm_0", "norm_1")
        paths = [f"{path}/{name}" for path in outer for name in ours]
        for name, path in zip(self.norm_names, paths, strict=False):
            self.add_norm(table, f"{theirs}.{name}", path)

    def add_attention(self, table: TensorTable, theirs: str, ours: str) -> None:
        """Adds the tensors of "model.layers.0.self_attn"."""
        is_grouped = self.memory_heads not in (1, self.settings.integer(self.num_heads))
        table.attention(
            [f"{theirs}.{name}" for name in self.projections],
            ours,
            biases=self.has_biases,
            # With grouped heads, our output kernel has the inputs {memory_heads, heads, d_kv}.
            inputs=3 if is_grouped else 2,
            heads=self.memory_heads if self.fuses_heads else 1,
            order=self.order_of_pairs if self.rotates_pairs else None,
        )
        if self.head_norm is not None:
            self.add_head_norms(table, theirs, ours, self.head_norm)

    def add_head_norms(self, table: TensorTable, theirs: str, ours: str, form: Transform) -> None:
        for name in ("query", "key"):
            table.add(f"{theirs}.{name[0]}_norm.weight", f"{ours}/{name}_norm/scale", form)

    def order_of_pairs(self, size: int) -> Sequence[int]:
        return halves_of_pairs(self.num_rotated or size, size)

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        """Adds the feed-forward layer of "model.layers.0", without its norm."""
        table.feed_forward(
            [f"{theirs}.{name}" for name in self.maps],
            ours,
            is_gated=self.feed_forward_class == GATED,
            has_bias=self.settings.is_set(self.map_biases),
        )
