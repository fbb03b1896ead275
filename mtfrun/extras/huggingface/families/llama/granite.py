"""Granite 3: Llama with constant factors. Granite Team 2024, "Granite 3.0 Language Models"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama
from mtfrun.extras.huggingface.tables.settings import Settings


class Granite(Llama):
    model_types: ClassVar[Sequence[str]] = ("granite",)
    architectures: ClassVar[Sequence[str]] = ("GraniteForCausalLM",)
    name: ClassVar[str] = "Granite"
    shipped_file: ClassVar[str] = "extras/huggingface/models/granite.gin"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        for macro, name in (("EMBEDDING", "embedding"), ("RESIDUAL", "residual")):
            file.macro(f"{macro}_FACTOR", settings.number(f"{name}_multiplier", 1.0))
        factor = settings.number("attention_multiplier", 1.0)
        divisor = settings.number("logits_scaling", 1.0)
        for name, value in (("attention_multiplier", factor), ("logits_scaling", divisor)):
            if not value:
                raise settings.error(name, "must not be 0")
        file.macro("ATTENTION_FACTOR", factor)
        file.macro("LOGITS_FACTOR", 1.0 / divisor)
