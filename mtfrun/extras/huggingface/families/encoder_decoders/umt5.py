"""umT5: mT5 with logits by distance in every block. Chung et al. 2023, arXiv:2304.09151."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import T5
from mtfrun.extras.huggingface.tables.settings import Settings


class UMT5(T5):
    """T5 1.1; the models with relu, of which none is published, as well."""

    model_types: ClassVar[Sequence[str]] = ("umt5",)
    architectures: ClassVar[Sequence[str]] = ("UMT5ForConditionalGeneration",)
    unused: ClassVar[Sequence[str]] = ()
    shipped_files: ClassVar[tuple[str, str]] = (
        "models/t5.1.0.gin",
        "extras/huggingface/models/umt5.gin",
    )

    def title(self, settings: Settings) -> str:
        return "umT5"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if self.shipped_files[0] in file.includes:
            bias = reference("@transformer.RelativePositionBias")
            file.bind("transformer.Stack", {"relative_bias": None})
            file.bind("transformer.SelfAttention", {"relative_bias": bias})

    def bias_path(self, stack: str, block: int, attention: str) -> str | None:
        return f"{attention}/layer/relative_bias"
