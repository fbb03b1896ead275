"""Phi-3 and Phi-4: Llama whose kernels of one input are one tensor.

Abdin et al. 2024, arXiv:2404.14219 and arXiv:2412.08905.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.llama import (
    Llama,
    output_inputs,
    sliding_window,
)
from mtfrun.tools.conversion.hugging_face.rotary import Rotary
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Joined, Matrix, Row


class Phi3(Llama):
    model_types: ClassVar[Sequence[str]] = ("phi3",)
    architectures: ClassVar[Sequence[str]] = ("Phi3ForCausalLM",)
    name: ClassVar[str] = "Phi-3"
    shipped_file: ClassVar[str] = "models/phi3.gin"
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 4096

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("DROPOUT_RATE", settings.number("resid_pdrop", 0.0))

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        file.macro("ROTARY_BASE", rotary.base(self.rotary_base))
        file.macro("ROTATED", rotary.rotated(self.size_of_head(settings), 1.0))
        rotary.write_scaling(file)

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return False, False

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return [sliding_window(settings, None)] * settings.count("num_hidden_layers")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        paths = [f"{ours}/{name}" for name in ("query", "key", "value")]
        yield Row(f"{theirs}.qkv_proj.weight", paths, Joined(0, Matrix()))
        output = Matrix(inputs=output_inputs(settings))
        yield Row(f"{theirs}.o_proj.weight", f"{ours}/output", output)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        paths = [f"{ours}/{name}/kernel" for name in ("wi_0", "wi_1")]
        yield Row(f"{theirs}.mlp.gate_up_proj.weight", paths, Joined(0, Matrix()))
        yield Row(f"{theirs}.mlp.down_proj.weight", f"{ours}/wo/kernel", Matrix())
