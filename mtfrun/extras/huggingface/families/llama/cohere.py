"""Command R: Llama with attention and feed-forward layer side by side, and layer norms.

Cohere 2024, https://huggingface.co/CohereLabs/c4ai-command-r-v01, and 2025, arXiv:2504.00698.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, windows_in_turn
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL, PARALLEL, Blocks, parallel_paths
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    HeadRows,
    Reordered,
    Row,
    Same,
    halves_of_pairs,
)

_SCOPE = "local/"
_ROTATED = ("query", "key", "query_bias", "key_bias")


class Cohere(Llama):
    """Pairs of entries that rotate are side by side in its heads."""

    model_types: ClassVar[Sequence[str]] = ("cohere",)
    architectures: ClassVar[Sequence[str]] = ("CohereForCausalLM",)
    name: ClassVar[str] = "Command R"
    shipped_file: ClassVar[str] = "extras/huggingface/models/cohere.gin"
    sublayers: ClassVar[Sequence[str]] = (PARALLEL,)
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

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
        attention = LOCAL if names[0].startswith(_SCOPE) else GLOBAL
        return parallel_paths(*outer, attention, self.feed_forward_class)

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        yield Row(f"{theirs}.input_layernorm.weight", f"{outer[0]}/norm/scale", Same())

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        size = self.size_of_head(settings)
        yield from reorder_pairs(super().attention(settings, theirs, ours), size, size)
        if settings.flag("use_qk_norm", default=False):
            for name in ("query", "key"):
                transform = Reordered(HeadRows(), halves_of_pairs(size, size))
                yield Row(f"{theirs}.{name[0]}_norm.weight", f"{ours}/{name}_norm/scale", transform)


class Cohere2(Cohere):
    """Three of four layers have a window, the others no positions."""

    model_types: ClassVar[Sequence[str]] = ("cohere2",)
    architectures: ClassVar[Sequence[str]] = ("Cohere2ForCausalLM",)
    name: ClassVar[str] = "Command R7B"
    rotary_base: ClassVar[float] = 10000.0

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.bind(GLOBAL, {"rotary": False})
        if any(self.windows(settings)):
            layers = [reference(f"@{name}") for name in (LOCAL, self.feed_forward_class)]
            file.bind(f"{_SCOPE}{PARALLEL}", {"layers": layers})

    def blocks(self, settings: Settings) -> Blocks:
        windows = self.windows(settings)
        return Blocks([(f"{_SCOPE}{PARALLEL}" if window else PARALLEL,) for window in windows])

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return windows_in_turn(settings, 4)

    def size_of_head(self, settings: Settings) -> int:
        """The setting "head_dim" has no effect in transformers."""
        values = {name: x for name, x in settings.values.items() if name != "head_dim"}
        return super().size_of_head(dataclasses.replace(settings, values=values))


def reorder_pairs(rows: Iterable[Row], rotated: int, size: int) -> Iterator[Row]:
    """Yields rows of attention in which entries that rotate are side by side in a head."""
    order = halves_of_pairs(rotated, size)
    for row in rows:
        is_rotated = row.paths[0].rpartition("/")[2] in _ROTATED
        yield row.in_order(order) if is_rotated else row
