"""Marian's translation models. Junczys-Dowmunt et al. 2018, arXiv:1804.00344."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.bart import Bart
from mtfrun.tools.conversion.hugging_face.settings import Settings


class Marian(Bart):
    """BART with sines and cosines of positions, which some folders store, and no norm before."""

    model_types: ClassVar[Sequence[str]] = ("marian",)
    architectures: ClassVar[Sequence[str]] = ("MarianMTModel",)
    name: ClassVar[str] = "Marian"
    shipped_file: ClassVar[str] = "models/marian.gin"
    padding_id: ClassVar[int] = 58100
    start_id: ClassVar[int] = 58100
    first_norm: ClassVar[str] = ""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if self.has_table(settings):
            file.bind(
                "transformer.PositionalEmbedding",
                {"trainable": False},
                comment="sines and cosines that the folder stores",
            )
