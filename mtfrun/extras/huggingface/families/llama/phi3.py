"""Phi-3, Phi-4 and GLM-4: Llama whose kernels of one input are one tensor.

Abdin et al. 2024, arXiv:2404.14219 and arXiv:2412.08905; Team GLM 2024, arXiv:2406.12793.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.cohere import reorder_pairs
from mtfrun.extras.huggingface.families.llama.llama import Llama, output_inputs, sliding_window
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Joined, Matrix, Row, Same


class Phi3(Llama):
    """`rotated_share`: how much of a head rotates, where a configuration does not say it."""

    model_types: ClassVar[Sequence[str]] = ("phi3",)
    architectures: ClassVar[Sequence[str]] = ("Phi3ForCausalLM",)
    name: ClassVar[str] = "Phi-3"
    shipped_file: ClassVar[str] = "extras/huggingface/models/phi3.gin"
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 4096
    rotated_share: ClassVar[float] = 1.0

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("DROPOUT_RATE", settings.number("resid_pdrop", 0.0))

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        file.macro("ROTARY_BASE", rotary.base(self.rotary_base))
        file.macro("ROTATED", self.rotary_size(settings))
        rotary.write_scaling(file)

    def rotary_size(self, settings: Settings) -> int | None:
        return Rotary.of(settings).rotated(self.size_of_head(settings), self.rotated_share)

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


class Glm(Phi3):
    """Of a head pairs of entries rotate; queries, keys and values are separate tensors."""

    model_types: ClassVar[Sequence[str]] = ("glm",)
    architectures: ClassVar[Sequence[str]] = ("GlmForCausalLM",)
    name: ClassVar[str] = "GLM-4"
    epsilon: ClassVar[float] = 1.5625e-07
    head_size: ClassVar[int | None] = 128
    max_positions: ClassVar[int] = 131072
    rotated_share: ClassVar[float] = 0.5

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return settings.flag("attention_bias", default=True), False

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return [None] * settings.count("num_hidden_layers")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        size = self.size_of_head(settings)
        rows = Llama.attention(self, settings, theirs, ours)
        yield from reorder_pairs(rows, self.rotary_size(settings) or size, size)


class Glm4(Glm):
    """Norms are on both sides of sublayers."""

    model_types: ClassVar[Sequence[str]] = ("glm4",)
    architectures: ClassVar[Sequence[str]] = ("Glm4ForCausalLM",)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        names = ("RMSNorm", "CallLayer", "RMSNorm", "SublayerDropout", "Residual")
        layer = [reference(f"@transformer.{name}") for name in names]
        file.bind("transformer.StackTransforms", {"layer": layer})

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        names = ("input", "post_self_attn", "post_attention", "post_mlp")
        norms = (f"{path}/norm_{i}" for path in outer for i in range(2))
        for name, norm in zip(names, norms, strict=True):
            yield Row(f"{theirs}.{name}_layernorm.weight", f"{norm}/scale", Same())
