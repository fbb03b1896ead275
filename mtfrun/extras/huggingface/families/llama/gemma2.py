"""Gemma 2: Gemma with more norms, windows, and limits of logits.

Riviere et al. 2024, arXiv:2408.00118.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.gemma import Gemma
from mtfrun.extras.huggingface.families.llama.llama import Llama, windows_in_turn
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, Same

_FEED_FORWARD = "transformer.GatedFeedForward"


class Gemma2(Gemma):
    """`layers_of_pattern`: in turn, all of them but the last have a window."""

    model_types: ClassVar[Sequence[str]] = ("gemma2",)
    architectures: ClassVar[Sequence[str]] = ("Gemma2ForCausalLM",)
    name: ClassVar[str] = "Gemma 2"
    shipped_file: ClassVar[str] = "extras/huggingface/models/gemma2.gin"
    sublayers: ClassVar[Sequence[str]] = (LOCAL, _FEED_FORWARD, GLOBAL, _FEED_FORWARD)
    activation_setting: ClassVar[str] = "hidden_activation"
    layers_of_pattern: ClassVar[int] = 2

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        self.write_caps(settings, file)
        size = settings.integer("query_pre_attn_scalar", 256)
        if size != self.size_of_head(settings):
            file.bind("transformer.AttentionHeads", {"scaled_logits": size**-0.5})

    def write_caps(self, settings: Settings, file: GinFile) -> None:
        names = {"ATTENTION_CAP": "attn_logit_softcapping", "LOGITS_CAP": "final_logit_softcapping"}
        for macro, name in names.items():
            is_off = name in settings.values and settings.values[name] is None
            default = 50.0 if macro == "ATTENTION_CAP" else 30.0
            file.macro(macro, None if is_off else settings.number(name, default))

    def activation(self, settings: Settings) -> str:
        return Llama.activation(self, settings)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return windows_in_turn(settings, self.layers_of_pattern)

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        names = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        norms = (f"{path}/norm_{i}" for path in outer for i in range(2))
        for name, norm in zip(names, norms, strict=True):
            yield Row(f"{theirs}.{name}_layernorm.weight", f"{norm}/scale", Same())
