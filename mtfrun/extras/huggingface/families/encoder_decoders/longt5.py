"""LongT5, with local or transient-global attention. Guo et al. 2022, arXiv:2112.07916."""

from __future__ import annotations

from collections.abc import Iterator

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import T5, T5Encoder
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL, ModelDescription, classes
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, Same

_KIND = "encoder_attention_type"
# transformers' class and ours by kind of attention.
_ATTENTION = {
    "local": ("LocalSelfAttention", LOCAL),
    "transient-global": ("TransientGlobalSelfAttention", "huggingface.TransientGlobalAttention"),
}


class LongT5(T5):
    """T5 1.1, or with relu, and an encoder with sparse attention."""

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
        file.bind(LOCAL, _parameters())

    def write_layers(self, settings: Settings, file: GinFile) -> None:
        super().write_layers(settings, file)
        for stack in self.stacks:
            layers = classes(*self.blocks(settings, stack).sublayers)
            file.bind(f"{stack}/transformer.Stack", {"layers": layers})

    def attention_class(self, settings: Settings, stack: str) -> str:
        return _ATTENTION[_kind(settings)][1] if stack == "encoder" else GLOBAL

    def self_attention(
        self, settings: Settings, theirs: str, ours: str, *, is_first: bool
    ) -> Iterator[Row]:
        if not ours.startswith("encoder"):
            yield from super().self_attention(settings, theirs, ours, is_first=is_first)
            return
        theirs = f"{theirs}.{_ATTENTION[_kind(settings)][0]}"
        yield from self.self_attention_rows(theirs, ours, is_first=is_first)
        if _kind(settings) == "local":
            return
        if is_first:
            table = f"{theirs}.global_relative_attention_bias.weight"
            yield Row(table, f"{ours}/layer/block_bias/table", Matrix())
        norm = f"{ours}/layer/block_norm/scale"
        yield Row(f"{theirs}.global_input_layer_norm.weight", norm, Same())


class LongT5Encoder(LongT5, T5Encoder):
    """LongT5 without its decoder, as `T5Encoder`."""

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

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

    def write_layers(self, settings: Settings, file: GinFile) -> None:
        T5Encoder.write_layers(self, settings, file)


def _parameters() -> dict[str, object]:
    return {
        "heads": reference("@transformer.AttentionHeads()"),
        "window": reference("%ATTENTION_WINDOW"),
        "dropout_rate": reference("%DROPOUT_RATE"),
    }


def _kind(settings: Settings) -> str:
    settings.require(_KIND, *_ATTENTION)
    return settings.text(_KIND, "local")
