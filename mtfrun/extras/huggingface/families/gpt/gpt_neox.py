"""GPT-NeoX and Pythia: attention and feed-forward layer side by side, each behind a layer norm.

Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.gpt.phi import LAYERS, Phi
from mtfrun.extras.huggingface.family import Blocks
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    JoinedByHead,
    Matrix,
    Row,
    Same,
    norm_rows,
)

_ONE_AFTER_THE_OTHER = ("LayerNorm", "CallLayer", "SublayerDropout", "Residual")


class GPTNeoX(Phi):
    model_types: ClassVar[Sequence[str]] = ("gpt_neox",)
    architectures: ClassVar[Sequence[str]] = ("GPTNeoXForCausalLM",)
    name: ClassVar[str] = "GPT-NeoX"
    shipped_file: ClassVar[str] = "extras/huggingface/models/gpt_neox.gin"
    has_softmax_bias: ClassVar[bool] = False
    activation: ClassVar[tuple[str, str]] = ("hidden_act", "gelu")
    rates: ClassVar[Sequence[str]] = ("hidden_dropout", "attention_dropout", "hidden_dropout")
    embedding: ClassVar[str] = "gpt_neox.embed_in.weight"
    softmax: ClassVar[str] = "embed_out"
    last_norm: ClassVar[str] = "gpt_neox.final_layer_norm"
    layers: ClassVar[str] = "gpt_neox.layers"
    maps: ClassVar[tuple[str, str]] = ("dense_h_to_4h", "dense_4h_to_h")
    attention_name: ClassVar[str] = "attention"
    kept: ClassVar[str] = r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if not settings.flag("use_parallel_residual", default=True):
            transforms = [reference(f"@transformer.{name}") for name in _ONE_AFTER_THE_OTHER]
            file.bind("transformer.StackTransforms", {"layer": transforms})

    def blocks(self, settings: Settings) -> Blocks:
        if settings.flag("use_parallel_residual", default=True):
            return super().blocks(settings)
        return Blocks([LAYERS] * settings.count(self.num_layers))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        rotary = Rotary.of(settings)
        size = settings.integer(self.width) // settings.integer(self.num_heads)
        file.macro("ROTARY_BASE", rotary.base(10000.0, "rotary_emb_base"))
        file.macro("ROTATED", rotary.rotated(size, 0.25, "rotary_pct"))
        rotary.write_scaling(file)
        if not self._has_bias(settings):
            biases = {"use_bias": False, "use_output_bias": False}
            file.bind("transformer.AttentionHeads", biases)

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        for name, path in zip(("input", "post_attention"), inner, strict=True):
            yield from norm_rows(f"{theirs}.{name}_layernorm", f"{path}/norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        prefix, heads = f"{theirs}.{self.attention_name}", settings.integer(self.num_heads)
        paths = [f"{ours}/{name}" for name in ("query", "key", "value")]
        kernels = JoinedByHead(heads, Matrix())
        yield Row(f"{prefix}.query_key_value.weight", paths, kernels)
        yield Row(f"{prefix}.dense.weight", f"{ours}/output", Matrix(inputs=2))
        if self._has_bias(settings):
            biases = [f"{path}_bias" for path in paths]
            yield Row(f"{prefix}.query_key_value.bias", biases, JoinedByHead(heads, Flat()))
            yield Row(f"{prefix}.dense.bias", f"{ours}/output_bias", Same())

    def _has_bias(self, settings: Settings) -> bool:
        return settings.flag("attention_bias", default=True)
