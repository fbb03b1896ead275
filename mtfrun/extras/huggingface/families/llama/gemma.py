"""Gemma: Llama with other factors and scales. Mesnard et al. 2024, arXiv:2403.08295."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama
from mtfrun.extras.huggingface.tables.settings import Settings


class Gemma(Llama):
    model_types: ClassVar[Sequence[str]] = ("gemma",)
    architectures: ClassVar[Sequence[str]] = ("GemmaForCausalLM",)
    name: ClassVar[str] = "Gemma"
    shipped_file: ClassVar[str] = "extras/huggingface/models/gemma.gin"
    head_size: ClassVar[int | None] = 256
    max_positions: ClassVar[int] = 8192
    is_tied_by_default: ClassVar[bool] = True
    usual_activation: ClassVar[str] = "gelu_pytorch_tanh"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("use_bidirectional_attention", *(False,))
        super().write_gin(settings, file)

    def activation(self, settings: Settings) -> str:
        name = super().activation(settings)
        # As transformers: the first models were published with the wrong name.
        return self.usual_activation if name == "gelu" else name
