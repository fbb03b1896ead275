"""Llama with layer norms: StableLM, OLMo, StarCoder2, Command R.

Bellagente et al. 2024, arXiv:2402.17834; Groeneveld et al. 2024, arXiv:2402.00838; Lozhkov et al.
2024, arXiv:2402.19173; Cohere 2024, https://huggingface.co/CohereLabs/c4ai-command-r-v01, and 2025,
arXiv:2504.00698.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import Setting
from mtfrun.extras.huggingface.families.llama.llama import Llama
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GATED,
    GLOBAL,
    LOCAL,
    PARALLEL,
    Blocks,
    classes,
    parallel_paths,
)
from mtfrun.extras.huggingface.tables.settings import Flag
from mtfrun.extras.huggingface.tables.tensor_table import (
    HEAD_ROWS,
    SAME,
    Reordered,
    Stacked,
    TensorTable,
)

_LOCAL_PARALLEL = f"local/{PARALLEL}"


class StableLm(Llama):
    file = "stablelm"
    has_norm_bias = True
    epsilon = ("layer_norm_eps", 1e-5)
    num_positions = ("max_position_embeddings", 4096)
    rotated_share: Setting | None = ("partial_rotary_factor", 0.25)
    biases: tuple[Flag, Flag] = (("use_qkv_bias", False), False)
    is_parallel: Flag = ("use_parallel_residual", False)

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if self.settings.is_set(self.is_parallel):
            file.bind(PARALLEL, {"layers": classes(*self.sublayers)})
        if self.settings.flag("qk_layernorm", default=False):
            norm = reference("@heads/transformer.LayerNorm")
            file.bind("transformer.AttentionHeads", {"norm": norm, "norm_heads": "apart"})
            file.bind("heads/transformer.LayerNorm", {"use_bias": False})

    def add_attention(self, table: TensorTable, theirs: str, ours: str) -> None:
        super().add_attention(table, theirs, ours)
        if not self.settings.flag("qk_layernorm", default=False):
            return
        heads = self.settings.count("num_attention_heads")
        numbers = heads, self.settings.count("num_key_value_heads", heads)
        for name, number in zip(("query", "key"), numbers, strict=True):
            prefix = f"{theirs}.{name[0]}_layernorm.norms"
            names = [f"{prefix}.{head}.weight" for head in range(number)]
            table.add(names, f"{ours}/{name}_norm/scale", Stacked(SAME, dims=1))


class Olmo(StableLm):
    """StableLM with norms without variables."""

    num_positions = ("max_position_embeddings", 2048)
    rotated_share = ("partial_rotary_factor", 1.0)
    biases = Llama.biases

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        file.bind("transformer.LayerNorm", {"use_scale": False})
        if self.settings.values.get("clip_qkv") is not None:
            limit = self.settings.number("clip_qkv")
            file.bind("transformer.AttentionHeads", {"projection_limit": limit})

    def add_norm(self, table: TensorTable, theirs: str, ours: str) -> None:
        """Adds no tensors."""


class Starcoder2(StableLm):
    """StableLM with ungated feed-forward layers."""

    epsilon = ("norm_epsilon", 1e-5)
    feed_forward_class = FEED_FORWARD
    activation = ("hidden_act", "gelu_pytorch_tanh")
    rotated_share = ("partial_rotary_factor", 1.0)
    rates = ("residual_dropout", "attention_dropout")
    maps = ("mlp.c_fc", "mlp.c_proj")
    map_biases = ("use_bias", True)
    biases = (map_biases, map_biases)
    has_window = True
    default_window = None
    reads_layer_types = False

    @property
    def ties(self) -> Mapping[str, str]:
        is_tied = self.settings.flag("tie_word_embeddings", default=True)
        return {f"{self.softmax}.weight": f"{self.embedding}.weight"} if is_tied else {}

    def write_feed_forward(self, file: GinFile) -> None:
        function = self.settings.activation(*self.activation)
        parameters = {"activation": function, "use_bias": self.settings.is_set(self.map_biases)}
        file.bind(self.feed_forward_class, parameters)


class Cohere(Llama):
    """Parallel attention and feed-forward layer."""

    file = "cohere"
    sublayers = (PARALLEL,)
    rotary_base = ("rope_theta", 500000.0)
    rotates_pairs = True
    epsilon = ("layer_norm_eps", 1e-5)
    num_positions = ("max_position_embeddings", 8192)
    is_tied_by_default = True
    is_parallel = True

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        file.macro("LOGITS_FACTOR", self.settings.number("logit_scale", 0.0625))
        if self.settings.flag("use_qk_norm", default=False):
            norm = {"norm": reference("@transformer.LayerNorm"), "norm_heads": "apart"}
            file.bind("transformer.AttentionHeads", norm)

    def add_attention(self, table: TensorTable, theirs: str, ours: str) -> None:
        super().add_attention(table, theirs, ours)
        if self.settings.flag("use_qk_norm", default=False):
            self.add_head_norms(table, theirs, ours, Reordered(HEAD_ROWS, self.order_of_pairs))


class Cohere2(Cohere):
    """Command R with a window in three of four layers, and no positions in the fourth."""

    rotary_base = ("rope_theta", 10000.0)
    has_window = True
    global_every = 4

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        file.bind(GLOBAL, {"rotary": False})
        if any(self.windows):
            file.bind(_LOCAL_PARALLEL, {"layers": classes(LOCAL, GATED)})

    @functools.cached_property
    def blocks(self) -> Blocks:
        return Blocks([(_LOCAL_PARALLEL if window else PARALLEL,) for window in self.windows])

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        return parallel_paths(*outer, LOCAL if names[0] == _LOCAL_PARALLEL else GLOBAL, GATED)

    @property
    def size_of_head(self) -> int:
        """Ignores "head_dim", as transformers does."""
        return self.settings.integer("hidden_size") // self.settings.integer("num_attention_heads")
