"""LongT5, with local or transient-global attention. Guo et al. 2022, arXiv:2112.07916."""

from __future__ import annotations

from collections.abc import Iterator

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import (
    T5,
    T5Encoder,
    self_attention_rows,
)
from mtfrun.extras.huggingface.family import ModelDescription
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, Same

_KIND = "encoder_attention_type"
# By kind of attention transformers' class, ours, and its name in our paths.
_ATTENTION = {
    "local": ("LocalSelfAttention", "transformer.LocalSelfAttention", "local_self_attention"),
    "transient-global": (
        "TransientGlobalSelfAttention",
        "huggingface.TransientGlobalAttention",
        "transient_global_attention",
    ),
}


class LongT5(T5):
    """T5 1.1 whose encoder does not attend to all positions; the models with relu as well."""

    shipped_files = ("extras/huggingface/models/longt5.gin",) * 2

    def title(self, settings: Settings) -> str:
        return f"LongT5, {_kind(settings)}"

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        file.macro("ATTENTION_WINDOW", settings.integer("local_radius", 127) + 1)
        if _kind(settings) != "local":
            file.macro("GLOBAL_BLOCK", settings.integer("global_block_size", 16))
            return
        file.bind("transformer.LocalSelfAttention", _parameters())

    def write_layers(self, settings: Settings, file: GinFile) -> str:
        layer = super().write_layers(settings, file)
        of_encoder = [_ATTENTION[_kind(settings)][1]]
        of_decoder = ["transformer.SelfAttention", "transformer.EncoderDecoderAttention"]
        for stack, attentions in (("encoder", of_encoder), ("decoder", of_decoder)):
            layers = [reference(f"@{name}") for name in (*attentions, f"transformer.{layer}")]
            file.bind(f"{stack}/transformer.Stack", {"layers": layers})
        return layer

    def self_attention(
        self, settings: Settings, stack: str, block: int, theirs: str
    ) -> tuple[str, Iterator[Row]]:
        if stack == "decoder":
            return super().self_attention(settings, stack, block, theirs)
        name, _, ours = _ATTENTION[_kind(settings)]
        path = self.sublayer_path(settings, stack, block, ours)
        return path, self._encoder_rows(settings, block, f"{theirs}.{name}", path)

    def _encoder_rows(
        self, settings: Settings, block: int, theirs: str, ours: str
    ) -> Iterator[Row]:
        yield from self_attention_rows(theirs, ours, self.bias_path("encoder", block, ours))
        if _kind(settings) == "local":
            return
        if block == 0:
            table = f"{theirs}.global_relative_attention_bias.weight"
            yield Row(table, f"{ours}/layer/block_bias/table", Matrix())
        norm = f"{ours}/layer/block_norm/scale"
        yield Row(f"{theirs}.global_input_layer_norm.weight", norm, Same())


class LongT5Encoder(LongT5, T5Encoder):
    """LongT5 without its decoder, as `T5Encoder`."""

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

    def attention_class(self, settings: Settings) -> str:
        return _ATTENTION[_kind(settings)][1]

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if _kind(settings) == "local":
            return
        blocks = {"blocks": reference("@huggingface.BlockSums()")}
        file.bind("huggingface.TransientGlobalAttention", _parameters() | blocks)
        file.bind(
            "huggingface.BlockSums",
            {
                "size": reference("%GLOBAL_BLOCK"),
                "norm": reference("@transformer.RMSNorm"),
                "relative_bias": reference("@transformer.RelativePositionBias"),
            },
        )

    def write_layers(self, settings: Settings, file: GinFile) -> str:
        return T5Encoder.write_layers(self, settings, file)


def _parameters() -> dict[str, object]:
    """Returns the parameters of both kinds of attention."""
    return {
        "heads": reference("@transformer.AttentionHeads()"),
        "window": reference("%ATTENTION_WINDOW"),
        "dropout_rate": reference("%DROPOUT_RATE"),
    }


def _kind(settings: Settings) -> str:
    settings.require(_KIND, *_ATTENTION)
    return settings.text(_KIND, "local")
