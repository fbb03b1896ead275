"""OPT: GPT-2 with relu. Zhang et al. 2022, arXiv:2205.01068."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.phi import LAYERS, Phi
from mtfrun.tools.conversion.hugging_face.family import Blocks
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import (
    Flat,
    Matrix,
    Row,
    Same,
    TensorTable,
    norm_rows,
)

_PREFIX = "model.decoder"


class Opt(Phi):
    """All models but the one of 350 million parameters, whose embeddings are smaller."""

    model_types: ClassVar[Sequence[str]] = ("opt",)
    architectures: ClassVar[Sequence[str]] = ("OPTForCausalLM",)
    name: ClassVar[str] = "OPT"
    shipped_file: ClassVar[str] = "models/opt.gin"
    sublayers: ClassVar[Sequence[str]] = LAYERS
    has_softmax_bias: ClassVar[bool] = False
    is_tied_by_default: ClassVar[bool] = True
    d_ff: ClassVar[str] = "ffn_dim"
    activation: ClassVar[tuple[str, str]] = ("activation_function", "relu")
    rates: ClassVar[Sequence[str]] = ("dropout", "attention_dropout")
    embedding: ClassVar[str] = f"{_PREFIX}.embed_tokens.weight"
    last_norm: ClassVar[str] = f"{_PREFIX}.final_layer_norm"
    layers: ClassVar[str] = f"{_PREFIX}.layers"
    maps: ClassVar[tuple[str, str]] = ("fc1", "fc2")
    maps_name: ClassVar[str] = ""
    kept: ClassVar[str] = ""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        width = settings.integer(self.width)
        settings.require("word_embed_proj_dim", width)
        for name in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine"):
            settings.require(name, *(True,))
        settings.require("_remove_final_layer_norm", *(False,))
        super().write_gin(settings, file)
        length = settings.integer(self.num_positions, 2048)
        file.bind("transformer.TokenEmbedding", {"max_length": length})

    def table(self, settings: Settings) -> TensorTable:
        positions = Row(f"{_PREFIX}.embed_positions.weight", "position/table", Same())
        return TensorTable([*super().table(settings).rows, positions])

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count(self.num_layers))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        """Adds nothing: there are no variants."""

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        for name, path in zip(("self_attn", "final"), outer, strict=True):
            yield from norm_rows(f"{theirs}.{name}_layer_norm", f"{path}/norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        prefix = f"{theirs}.self_attn"
        for name in ("query", "key", "value"):
            yield Row(f"{prefix}.{name[0]}_proj.weight", f"{ours}/{name}", Matrix())
            yield Row(f"{prefix}.{name[0]}_proj.bias", f"{ours}/{name}_bias", Flat())
        yield Row(f"{prefix}.out_proj.weight", f"{ours}/output", Matrix(inputs=2))
        yield Row(f"{prefix}.out_proj.bias", f"{ours}/output_bias", Same())
