"""OLMo 2: Llama with norms behind its sublayers, and of queries and keys.

Team OLMo 2024, arXiv:2501.00656.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.tools.conversion.hugging_face.families.llama import Llama
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Flat, Row, Same


class Olmo2(Llama):
    model_types: ClassVar[Sequence[str]] = ("olmo2",)
    architectures: ClassVar[Sequence[str]] = ("Olmo2ForCausalLM",)
    name: ClassVar[str] = "OLMo 2"
    shipped_file: ClassVar[str] = "models/olmo2.gin"
    epsilon: ClassVar[float] = 1e-5

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        for name, path in zip(("attention", "feedforward"), outer, strict=True):
            yield Row(f"{theirs}.post_{name}_layernorm.weight", f"{path}/norm/scale", Same())

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        for letter, name in (("q", "query"), ("k", "key")):
            yield Row(f"{theirs}.{letter}_norm.weight", f"{ours}/{name}_norm/scale", Flat())
