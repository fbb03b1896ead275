"""StableLM, OLMo and StarCoder2: Llama with layer norms.

Bellagente et al. 2024, arXiv:2402.17834; Groeneveld et al. 2024, arXiv:2402.00838; Lozhkov et al.
2024, arXiv:2402.19173.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, sliding_window
from mtfrun.extras.huggingface.family import PARALLEL, Blocks, parallel_paths
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Pieces, Row, dense_rows, norm_rows


class StableLm(Llama):
    """`rotated_share`: how much of a head rotates, where a configuration does not say it."""

    model_types: ClassVar[Sequence[str]] = ("stablelm",)
    architectures: ClassVar[Sequence[str]] = ("StableLmForCausalLM",)
    name: ClassVar[str] = "StableLM"
    shipped_file: ClassVar[str] = "extras/huggingface/models/stablelm.gin"
    epsilon_setting: ClassVar[str] = "layer_norm_eps"
    epsilon: ClassVar[float] = 1e-5
    max_positions: ClassVar[int] = 4096
    rotated_share: ClassVar[float] = 0.25

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
        file.macro("ROTATED", rotary.rotated(self.size_of_head(settings), self.rotated_share))
        rotary.write_scaling(file)

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return settings.flag("use_qkv_bias", default=False), False

    def blocks(self, settings: Settings) -> Blocks:
        if settings.flag("use_parallel_residual", default=False):
            return Blocks([(PARALLEL,)] * settings.count("num_hidden_layers"))
        return super().blocks(settings)

    def inner_paths(self, outer: Sequence[str], names: Sequence[str]) -> Sequence[str]:
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


class Olmo(StableLm):
    """Its norms have no variables."""

    model_types: ClassVar[Sequence[str]] = ("olmo",)
    architectures: ClassVar[Sequence[str]] = ("OlmoForCausalLM",)
    name: ClassVar[str] = "OLMo"
    max_positions: ClassVar[int] = 2048
    rotated_share: ClassVar[float] = 1.0

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.bind("transformer.LayerNorm", {"use_scale": False})
        if settings.values.get("clip_qkv") is not None:
            limit = settings.number("clip_qkv")
            file.bind("transformer.AttentionHeads", {"projection_limit": limit})

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        return Llama.biases(self, settings)

    def norms(self, theirs: str, outer: Sequence[str], inner: Sequence[str]) -> Iterator[Row]:
        return iter(())

    def final_norm(self) -> Iterator[Row]:
        return iter(())


class Starcoder2(StableLm):
    """Its feed-forward layers have no gates."""

    model_types: ClassVar[Sequence[str]] = ("starcoder2",)
    architectures: ClassVar[Sequence[str]] = ("Starcoder2ForCausalLM",)
    name: ClassVar[str] = "StarCoder2"
    epsilon_setting: ClassVar[str] = "norm_epsilon"
    feed_forward_class: ClassVar[str] = "transformer.FeedForward"
    usual_activation: ClassVar[str] = "gelu_pytorch_tanh"
    rotated_share: ClassVar[float] = 1.0

    def ties(self, settings: Settings) -> Mapping[str, str]:
        tied = {"tie_word_embeddings": True, **settings.values}
        return super().ties(dataclasses.replace(settings, values=tied))

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("DROPOUT_RATE", settings.number("residual_dropout", 0.0))

    def biases(self, settings: Settings) -> tuple[bool, bool]:
        use_bias = settings.flag("use_bias", default=True)
        return use_bias, use_bias

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return [sliding_window(settings, None)] * settings.count("num_hidden_layers")

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        function = settings.activation("hidden_act", self.activation(settings))
        parameters = {"activation": function, "use_bias": self.biases(settings)[0]}
        file.bind(self.feed_forward_class, parameters)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        for name, path in (("c_fc", "wi"), ("c_proj", "wo")):
            has_bias = self.biases(settings)[0]
            yield from dense_rows(f"{theirs}.mlp.{name}", f"{ours}/{path}", has_bias=has_bias)
