"""Qwen3: Qwen2 with a norm of every query and key. Yang et al. 2025, arXiv:2505.09388."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.extras.huggingface.families.llama.llama import Llama, Qwen2
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, Same


class Qwen3(Qwen2):
    model_types: ClassVar[Sequence[str]] = ("qwen3",)
    architectures: ClassVar[Sequence[str]] = ("Qwen3ForCausalLM",)
    name: ClassVar[str] = "Qwen3"
    shipped_file: ClassVar[str] = "extras/huggingface/models/qwen3.gin"
    head_size: ClassVar[int | None] = 128
    max_positions: ClassVar[int] = 32768

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return Llama.biases(self, settings)

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        for letter, name in (("q", "query"), ("k", "key")):
            yield Row(f"{theirs}.{letter}_norm.weight", f"{ours}/{name}_norm/scale", Same())
