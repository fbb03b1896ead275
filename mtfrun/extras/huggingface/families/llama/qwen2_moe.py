"""Qwen2 with mixtures of experts, and one for all tokens. Yang et al. 2024, arXiv:2407.10671."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import (
    Llama,
    Qwen2,
    sliding_window,
    windows_by_type,
)
from mtfrun.extras.huggingface.families.llama.mixtral import expert_rows, shared_rows, write_mixture
from mtfrun.extras.huggingface.families.llama.qwen3_moe import have_experts, num_experts
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL, PARALLEL, Blocks
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import HeadRows, Row


class Qwen2Moe(Qwen2):
    model_types: ClassVar[Sequence[str]] = ("qwen2_moe",)
    architectures: ClassVar[Sequence[str]] = ("Qwen2MoeForCausalLM",)
    name: ClassVar[str] = "Qwen2"
    shipped_file: ClassVar[str] = "extras/huggingface/models/qwen2_moe.gin"
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, PARALLEL)
    max_positions: ClassVar[int] = 32768

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return settings.flag("qkv_bias", default=True), False

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        if not self.biases(settings)[0]:
            file.bind("transformer.AttentionHeads", {"use_bias": False})
        file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", 1408))
        file.macro("SHARED_D_FF", settings.integer("shared_expert_intermediate_size", 5632))
        write_mixture(settings, file, num_experts=num_experts(settings, 60), choices=4)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})
        function = settings.activation("hidden_act", self.activation(settings))
        if str(function) != "@mtf.swish":
            file.bind("moe.SharedExpert", {"activation": function})

    def blocks(self, settings: Settings) -> Blocks:
        attentions = [LOCAL if window else GLOBAL for window in self.windows(settings)]
        layers = [
            (attention, PARALLEL if has_experts else self.feed_forward_class)
            for attention, has_experts in zip(attentions, have_experts(settings), strict=True)
        ]
        return Blocks(layers)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        number = settings.count("num_hidden_layers")
        is_local = settings.flag("use_sliding_window", default=False)
        window = sliding_window(settings, 4096) if is_local else None
        if window is None:
            return [None] * number
        if settings.values.get("layer_types") is not None:
            return windows_by_type(settings, window)
        last = settings.non_negative("max_window_layers", 28)
        return [window if layer % 2 == 0 and layer < last else None for layer in range(number)]

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        if "/parallel" not in ours:
            yield from Llama.feed_forward(self, settings, theirs, ours)
            return
        mixture, shared = (f"{ours}/layers/{name}/layer" for name in ("moe_1d", "shared_expert"))
        yield from expert_rows(settings, f"{theirs}.mlp", mixture, num_experts(settings, 60))
        gate = f"{theirs}.mlp.shared_expert_gate.weight"
        yield Row(gate, f"{shared}/gate/kernel", HeadRows())
        rows = Llama.feed_forward(self, settings, theirs, shared)
        yield from shared_rows(rows, "shared_expert")
