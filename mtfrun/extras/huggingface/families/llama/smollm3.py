"""SmolLM3: Llama without positions in some layers.

Bakouch et al. 2025, https://huggingface.co/blog/smollm3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, sliding_window, windows_by_type
from mtfrun.extras.huggingface.family import GLOBAL, LOCAL, Blocks
from mtfrun.extras.huggingface.tables.settings import Settings

_FEED_FORWARD = "transformer.GatedFeedForward"
_SCOPE = "no_positions/"


class SmolLM3(Llama):
    model_types: ClassVar[Sequence[str]] = ("smollm3",)
    architectures: ClassVar[Sequence[str]] = ("SmolLM3ForCausalLM",)
    name: ClassVar[str] = "SmolLM3"
    shipped_file: ClassVar[str] = "extras/huggingface/models/smollm3.gin"
    sublayers: ClassVar[Sequence[str]] = (
        *(GLOBAL, _FEED_FORWARD) * 3,
        *(f"{_SCOPE}{GLOBAL}", _FEED_FORWARD),
    )
    rotary_base: ClassVar[float] = 2000000.0
    max_positions: ClassVar[int] = 32768
    is_tied_by_default: ClassVar[bool] = True

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if f"{_SCOPE}{LOCAL}" in self.blocks(settings).sublayers:
            file.bind(f"{_SCOPE}{LOCAL}", {"rotary": False})

    def blocks(self, settings: Settings) -> Blocks:
        layers = []
        windows, has_positions = self.windows(settings), self._has_positions(settings)
        for window, rotates in zip(windows, has_positions, strict=True):
            attention = LOCAL if window else GLOBAL
            layers.append((attention if rotates else f"{_SCOPE}{attention}", _FEED_FORWARD))
        return Blocks(layers)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        is_local = settings.flag("use_sliding_window", default=False)
        window = sliding_window(settings, None) if is_local else None
        if window is None:
            return [None] * settings.count("num_hidden_layers")
        if settings.values.get("layer_types") is None:
            return [None if rotates else window for rotates in self._has_positions(settings)]
        return windows_by_type(settings, window)

    def _has_positions(self, settings: Settings) -> list[bool]:
        number, name = settings.count("num_hidden_layers"), "no_rope_layers"
        flags = settings.values.get(name)
        if flags is None:
            interval = settings.integer("no_rope_layer_interval", 4)
            return [(layer + 1) % interval != 0 for layer in range(number)]
        if not isinstance(flags, list) or len(flags) < number:
            raise settings.error(name, f"must have {number} entries")
        if any(flag not in (0, 1) for flag in flags):
            raise settings.error(name, "must be a list of 1, with positions, and 0, without")
        return [bool(flag) for flag in flags[:number]]
