"""Command R: Llama with attention and feed-forward layer side by side, and layer norms.

Cohere 2024, https://huggingface.co/CohereLabs/c4ai-command-r-v01.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.llama import Llama
from mtfrun.tools.conversion.hugging_face.family import (
    GLOBAL,
    PARALLEL,
    Blocks,
    parallel_paths,
)
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import (
    HeadRows,
    Reordered,
    Row,
    Same,
    halves_of_pairs,
)

_LAYERS = (GLOBAL, "transformer.GatedFeedForward")
_ROTATED = ("query", "key", "query_bias", "key_bias")


class Cohere(Llama):
    """Pairs of entries that rotate are side by side in its heads."""

    model_types: ClassVar[Sequence[str]] = ("cohere",)
    architectures: ClassVar[Sequence[str]] = ("CohereForCausalLM",)
    name: ClassVar[str] = "Command R"
    shipped_file: ClassVar[str] = "models/cohere.gin"
    sublayers: ClassVar[Sequence[str]] = (PARALLEL,)
    feed_forward_class: ClassVar[str] = _LAYERS[1]
    rotary_base: ClassVar[float] = 500000.0
    epsilon_setting: ClassVar[str] = "layer_norm_eps"
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 8192
    is_tied_by_default: ClassVar[bool] = True

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("LOGITS_FACTOR", settings.number("logit_scale", 0.0625))
        if settings.flag("use_qk_norm", default=False):
            norm = {"norm": reference("@transformer.LayerNorm"), "norm_heads": "apart"}
            file.bind("transformer.AttentionHeads", norm)

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([(PARALLEL,)] * settings.count("num_hidden_layers"))

    def inner_paths(self, outer: Sequence[str]) -> Sequence[str]:
        return parallel_paths(*outer, *_LAYERS)

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        yield Row(f"{theirs}.input_layernorm.weight", f"{outer[0]}/norm/scale", Same())

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        size = self.size_of_head(settings)
        order = halves_of_pairs(size, size)
        for row in super().attention(settings, theirs, ours):
            is_rotated = row.paths[0].rpartition("/")[2] in _ROTATED
            yield row.in_order(order) if is_rotated else row
        if settings.flag("use_qk_norm", default=False):
            for name in ("query", "key"):
                transform = Reordered(HeadRows(), order)
                yield Row(f"{theirs}.{name[0]}_norm.weight", f"{ours}/{name}_norm/scale", transform)
