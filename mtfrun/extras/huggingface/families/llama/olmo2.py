"""OLMo 2 and 3: Llama with norms behind its sublayers, and of queries and keys.

Team OLMo 2024, arXiv:2501.00656, and 2025, arXiv:2512.13961.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import FULL, SLIDING, Llama, windows_in_turn
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Flat, Row, Same


class Olmo2(Llama):
    model_types: ClassVar[Sequence[str]] = ("olmo2",)
    architectures: ClassVar[Sequence[str]] = ("Olmo2ForCausalLM",)
    name: ClassVar[str] = "OLMo 2"
    shipped_file: ClassVar[str] = "extras/huggingface/models/olmo2.gin"
    epsilon: ClassVar[float] = 1e-5

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        for name, path in zip(("attention", "feedforward"), outer, strict=True):
            yield Row(f"{theirs}.post_{name}_layernorm.weight", f"{path}/norm/scale", Same())

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        for letter, name in (("q", "query"), ("k", "key")):
            yield Row(f"{theirs}.{letter}_norm.weight", f"{ours}/{name}_norm/scale", Flat())


class Olmo3(Olmo2):
    """Three of four layers have a window; only positions of the others are scaled."""

    model_types: ClassVar[Sequence[str]] = ("olmo3",)
    architectures: ClassVar[Sequence[str]] = ("Olmo3ForCausalLM",)
    name: ClassVar[str] = "OLMo 3"
    rotary_base: ClassVar[float] = 500000.0
    local_rotary: ClassVar[str] = f"local/{ROTARY}"

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return windows_in_turn(settings, 4)

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base(self.rotary_base))
        everywhere.write_scaling(file)
        if not any(self.windows(settings)):
            return
        base = self.rotary_base
        if local.name == "rope_parameters":
            base = local.parameters.number("rope_theta", base)
        file.bind(self.local_rotary, {"base": base, "scaling": None})
        if local.name == "rope_parameters":  # version 4 scales the others only
            local.write_scaling(file, "local/")
