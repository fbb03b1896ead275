"""Qwen3 with mixtures of experts in all or some layers. Yang et al. 2025, arXiv:2505.09388."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, sliding_window
from mtfrun.extras.huggingface.families.llama.mixtral import MIXTURE, expert_rows, write_mixture
from mtfrun.extras.huggingface.families.llama.qwen3 import Qwen3
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL, Blocks
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row


class Qwen3Moe(Qwen3):
    model_types: ClassVar[Sequence[str]] = ("qwen3_moe",)
    architectures: ClassVar[Sequence[str]] = ("Qwen3MoeForCausalLM",)
    name: ClassVar[str] = "Qwen3"
    shipped_file: ClassVar[str] = "extras/huggingface/models/qwen3_moe.gin"
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, MIXTURE)
    head_size: ClassVar[int | None] = None

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", 768))
        write_mixture(settings, file, num_experts=num_experts(settings, 128), choices=8)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})

    def blocks(self, settings: Settings) -> Blocks:
        attentions = [LOCAL if window else GLOBAL for window in self.windows(settings)]
        dense = self.feed_forward_class
        return Blocks(
            [
                (attention, MIXTURE if has_experts else dense)
                for attention, has_experts in zip(attentions, have_experts(settings), strict=True)
            ]
        )

    def windows(self, settings: Settings) -> Sequence[int | None]:
        is_local = settings.flag("use_sliding_window", default=False)
        window = sliding_window(settings, 4096) if is_local else None
        return [window] * settings.count("num_hidden_layers")

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        if "/moe_1d" not in ours:
            yield from Llama.feed_forward(self, settings, theirs, ours)
            return
        yield from expert_rows(settings, f"{theirs}.mlp", ours, num_experts(settings, 128))


def num_experts(settings: Settings, default: int, name: str = "num_experts") -> int:
    """Its name has changed."""
    name = "num_local_experts" if "num_local_experts" in settings.values else name
    return settings.count(name, default)


def have_experts(settings: Settings) -> list[bool]:
    number, step = settings.count("num_hidden_layers"), settings.integer("decoder_sparse_step", 1)
    dense = settings.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise settings.error("mlp_only_layers", "must be a list of layers")
    return [layer not in dense and (layer + 1) % step == 0 for layer in range(number)]
