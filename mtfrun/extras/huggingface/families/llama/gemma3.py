"""Gemma 3, for texts: Gemma 2 with norms of queries and keys, and positions by type of layer.

Kamath et al. 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.gemma2 import Gemma2
from mtfrun.extras.huggingface.families.llama.llama import FULL, SLIDING
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, Same

_FEED_FORWARD = "transformer.GatedFeedForward"
_SCOPE = "local/"


class Gemma3(Gemma2):
    model_types: ClassVar[Sequence[str]] = ("gemma3_text",)
    architectures: ClassVar[Sequence[str]] = ("Gemma3ForCausalLM",)
    name: ClassVar[str] = "Gemma 3"
    shipped_file: ClassVar[str] = "extras/huggingface/models/gemma3.gin"
    sublayers: ClassVar[Sequence[str]] = (*(LOCAL, _FEED_FORWARD) * 5, GLOBAL, _FEED_FORWARD)
    max_positions: ClassVar[int] = 131072
    layers_of_pattern: ClassVar[int] = 6
    local_rotary: ClassVar[str] = f"{_SCOPE}{ROTARY}"

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base(1e6))
        file.macro("LOCAL_ROTARY_BASE", local.base(10000.0, "rope_local_base_freq"))
        everywhere.write_scaling(file)
        if local.name == "rope_parameters":  # version 4 scales the others only
            local.write_scaling(file, _SCOPE)

    def write_caps(self, settings: Settings, file: GinFile) -> None:
        name = "final_logit_softcapping"
        if settings.values.get(name) is not None:
            file.macro("LOGITS_CAP", settings.number(name))

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        for letter, name in (("q", "query"), ("k", "key")):
            yield Row(f"{theirs}.{letter}_norm.weight", f"{ours}/{name}_norm/scale", Same())
