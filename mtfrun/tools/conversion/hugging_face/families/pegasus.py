"""PEGASUS: summaries. Zhang et al. 2019, arXiv:1912.08777."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.tools.conversion.hugging_face.families.marian import Marian


class Pegasus(Marian):
    """Marian's with norms before the sublayers; the id of a piece is its number and 103 more."""

    model_types: ClassVar[Sequence[str]] = ("pegasus",)
    architectures: ClassVar[Sequence[str]] = ("PegasusForConditionalGeneration",)
    name: ClassVar[str] = "PEGASUS"
    shipped_file: ClassVar[str] = "models/pegasus.gin"
    padding_id: ClassVar[int] = 0
    start_id: ClassVar[int] = 0
    reads_pieces: ClassVar[bool] = False
    last_norm: ClassVar[str] = "layer_norm"
