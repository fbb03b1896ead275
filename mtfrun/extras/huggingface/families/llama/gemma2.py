"""Gemma 1, 2 and 3 (texts only): Llama with other factors and scales.

Mesnard et al. 2024, arXiv:2403.08295; Riviere et al. 2024, arXiv:2408.00118; Kamath et al. 2025,
arXiv:2503.19786.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama
from mtfrun.extras.huggingface.family import FULL, GATED, GLOBAL, LOCAL, SLIDING
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Same


class Gemma(Llama):
    file = "gemma"
    head_size = 256
    num_positions: ClassVar[tuple[str, int]] = ("max_position_embeddings", 8192)
    is_tied_by_default = True
    activation = ("hidden_act", "gelu_pytorch_tanh")

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("use_bidirectional_attention", *(False,))
        super().write_gin(settings, file)

    def function(self, settings: Settings) -> str:
        name = super().function(settings)
        # As transformers: the first models have the wrong name.
        return self.activation[1] if name == "gelu" else name


class Gemma2(Gemma):
    """Gemma with more norms, windows, and soft caps of logits."""

    file = "gemma2"
    sublayers: ClassVar[Sequence[str]] = (LOCAL, GATED, GLOBAL, GATED)
    activation = ("hidden_activation", "gelu_pytorch_tanh")
    norm_names = (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
    global_every: ClassVar[int] = 2
    caps: ClassVar[Sequence[tuple[str, str, float | None]]] = (
        ("ATTENTION_CAP", "attn_logit_softcapping", 50.0),
        ("LOGITS_CAP", "final_logit_softcapping", 30.0),
    )

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        for macro, name, default in self.caps:
            cap = settings.values.get(name, default)
            file.macro(macro, None if cap is None else settings.number(name, default))
        size = settings.integer("query_pre_attn_scalar", 256)
        if size != self.size_of_head(settings):
            file.bind("transformer.AttentionHeads", {"scaled_logits": size**-0.5})

    def function(self, settings: Settings) -> str:
        return Llama.function(self, settings)


class Gemma3(Gemma2):
    """Gemma 2 with query and key norms, and rotary positions by type of layer."""

    file = "gemma3"
    sublayers = (*(LOCAL, GATED) * 5, GLOBAL, GATED)
    num_positions = ("max_position_embeddings", 131072)
    head_norm = Same()
    global_every = 6
    local_rotary = f"local/{ROTARY}"
    caps = (("LOGITS_CAP", "final_logit_softcapping", None),)

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base("rope_theta", 1e6))
        file.macro("LOCAL_ROTARY_BASE", local.base("rope_local_base_freq", 10000.0))
        everywhere.write_scaling(file)
        if local.name == "rope_parameters":  # version 4 scales only global layers
            local.write_scaling(file, "local/")
