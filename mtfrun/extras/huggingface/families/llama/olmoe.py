"""OLMoE: Llama with mixtures of experts, and norms of all queries and all keys of a position.

Muennighoff et al. 2024, arXiv:2409.02060.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama
from mtfrun.extras.huggingface.families.llama.mixtral import MIXTURE, expert_rows, write_mixture
from mtfrun.extras.huggingface.family import GLOBAL
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Flat, Row


class Olmoe(Llama):
    model_types: ClassVar[Sequence[str]] = ("olmoe",)
    architectures: ClassVar[Sequence[str]] = ("OlmoeForCausalLM",)
    name: ClassVar[str] = "OLMoE"
    shipped_file: ClassVar[str] = "extras/huggingface/models/olmoe.gin"
    feed_forward_class: ClassVar[str] = MIXTURE
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, MIXTURE)
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 4096

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        settings.require("clip_qkv", None)
        write_mixture(settings, file, num_experts=settings.count("num_experts", 64), choices=8)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        for letter, name in (("q", "query"), ("k", "key")):
            yield Row(f"{theirs}.{letter}_norm.weight", f"{ours}/{name}_norm/scale", Flat())

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        number = settings.count("num_experts", 64)
        yield from expert_rows(settings, f"{theirs}.mlp", ours, number)
