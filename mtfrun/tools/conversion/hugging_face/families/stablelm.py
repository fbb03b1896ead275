"""StableLM: Llama with layer norms, and with a part of every head rotated.

Bellagente et al. 2024, arXiv:2402.17834.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.llama import Llama
from mtfrun.tools.conversion.hugging_face.family import (
    PARALLEL,
    Blocks,
    parallel_paths,
)
from mtfrun.tools.conversion.hugging_face.rotary import Rotary
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Pieces, Row, norm_rows


class StableLm(Llama):
    model_types: ClassVar[Sequence[str]] = ("stablelm",)
    architectures: ClassVar[Sequence[str]] = ("StableLmForCausalLM",)
    name: ClassVar[str] = "StableLM"
    shipped_file: ClassVar[str] = "models/stablelm.gin"
    epsilon_setting: ClassVar[str] = "layer_norm_eps"
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 4096

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if settings.flag("use_parallel_residual", default=False):
            layers = [reference(f"@{name}") for name in self.sublayers]
            file.bind(PARALLEL, {"layers": layers})
        if settings.flag("qk_layernorm", default=False):
            norm = reference("@heads/transformer.LayerNorm")
            file.bind("transformer.AttentionHeads", {"norm": norm, "norm_heads": "apart"})
            file.bind("heads/transformer.LayerNorm", {"use_bias": False})

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        file.macro("ROTARY_BASE", rotary.base(self.rotary_base))
        file.macro("ROTATED", rotary.rotated(self.size_of_head(settings), 0.25))
        rotary.write_scaling(file)

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return settings.flag("use_qkv_bias", default=False), False

    def blocks(self, settings: Settings) -> Blocks:
        if settings.flag("use_parallel_residual", default=False):
            return Blocks([(PARALLEL,)] * settings.count("num_hidden_layers"))
        return super().blocks(settings)

    def inner_paths(self, outer: Sequence[str]) -> Sequence[str]:
        return outer if len(outer) > 1 else parallel_paths(outer[0], *self.sublayers)

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        names = ("input_layernorm", "post_attention_layernorm")
        for name, path in zip(names, outer, strict=False):
            yield from norm_rows(f"{theirs}.{name}", f"{path}/norm")

    def final_norm(self) -> Iterator[Row]:
        return norm_rows("model.norm", "decoder_stack/final_norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        if not settings.flag("qk_layernorm", default=False):
            return
        heads = settings.integer("num_attention_heads")
        memory_heads = settings.integer("num_key_value_heads", heads)
        for name, number in (("query", heads), ("key", memory_heads)):
            prefix = f"{theirs}.{name[0]}_layernorm.norms"
            names = [f"{prefix}.{head}.weight" for head in range(number)]
            yield Row(names, f"{ours}/{name}_norm/scale", Pieces(number))
