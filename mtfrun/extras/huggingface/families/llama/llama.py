"""Llama and its kin: rotary positions, RMS norms, gated feed-forward layers.

Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288. Mistral: Jiang et al. 2023,
arXiv:2310.06825; Qwen2 and 3: Yang et al. 2024, arXiv:2407.10671, and 2025, arXiv:2505.09388;
Granite: Granite Team 2024, "Granite 3.0 Language Models"; OLMo 2 and 3: Team OLMo 2024,
arXiv:2501.00656, and 2025, arXiv:2512.13961; SmolLM3: Bakouch et al. 2025,
https://huggingface.co/blog/smollm3; Phi-3 and 4: Abdin et al. 2024, arXiv:2404.14219 and
arXiv:2412.08905; GLM-4: Team GLM 2024, arXiv:2406.12793; Gemma: Mesnard et al. 2024,
arXiv:2403.08295, Riviere et al. 2024, arXiv:2408.00118, Kamath et al. 2025, arXiv:2503.19786.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import Decoder, Setting
from mtfrun.extras.huggingface.family import (
    FULL,
    GATED,
    GLOBAL,
    LOCAL,
    SLIDING,
    Blocks,
    write_transforms,
)
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Flag
from mtfrun.extras.huggingface.tables.tensor_table import SAME, Flat


class Llama(Decoder):
    """Llama 1, 2 and 3. `head_size` is a family's default size of a head."""

    file = "llama"
    feed_forward_class = GATED
    sublayers: Sequence[str] = (GLOBAL, GATED)
    usual_biases = (False, False)
    usual_map_bias = False
    is_grouped = True
    has_norm_bias = False
    local_rotary = ROTARY
    head_size: int | None = None
    epsilon: Setting = ("rms_norm_eps", 1e-6)
    activation = ("hidden_act", "silu")
    rates: Sequence[str] = ("", "attention_dropout")
    norm_names: Sequence[str] = ("input_layernorm", "post_attention_layernorm")
    # Buffers of frequencies in files of earlier versions.
    kept = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    maps: Sequence[str] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    biases: tuple[Flag, Flag] = (("attention_bias", False),) * 2
    map_biases: Flag = ("mlp_bias", False)

    @property
    def hidden_size(self) -> int:
        return self.settings.integer("intermediate_size")

    @property
    def size_of_head(self) -> int:
        settings, heads = self.settings, self.settings.integer("num_attention_heads")
        size = settings.optional_integer("head_dim") or self.head_size
        size = size or settings.integer("hidden_size") // heads
        if not size:
            raise settings.error("num_attention_heads", "is larger than hidden_size")
        return size


class Mistral(Llama):
    """Llama with an optional window in all layers."""

    biases = (False, False)
    has_window: Flag = True
    default_window: int | None = 4096
    reads_layer_types = False


class Qwen2(Llama):
    """Llama with biases of queries, keys and values, and a window in some layers."""

    biases: tuple[Flag, Flag] = (True, False)
    has_window = ("use_sliding_window", False)

    def is_local(self, layer: int) -> bool:
        return layer >= self.settings.non_negative("max_window_layers", 28)


class Qwen3(Qwen2):
    """Qwen2 with query and key norms."""

    file = "qwen3"
    head_size: int | None = 128
    head_norm = SAME
    num_positions = ("max_position_embeddings", 32768)
    biases = Llama.biases


class Granite(Llama):
    """Llama with constant factors."""

    file = "granite"

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        for macro, name in (("EMBEDDING", "embedding"), ("RESIDUAL", "residual")):
            file.macro(f"{macro}_FACTOR", self.settings.number(f"{name}_multiplier", 1.0))
        factor = self.settings.number("attention_multiplier", 1.0)
        divisor = self.settings.number("logits_scaling", 1.0)
        for name, value in (("attention_multiplier", factor), ("logits_scaling", divisor)):
            if not value:
                raise self.settings.error(name, "must not be 0")
        file.macro("ATTENTION_FACTOR", factor)
        file.macro("LOGITS_FACTOR", 1.0 / divisor)


class Olmo2(Llama):
    """Llama with norms after sublayers, and of all heads' queries and keys together."""

    file = "olmo2"
    epsilon = ("rms_norm_eps", 1e-5)
    norm_names = ("post_attention_layernorm", "post_feedforward_layernorm")
    head_norm = Flat()


class Olmo3(Olmo2):
    """OLMo 2 with a window in three of four layers; only global layers scale positions."""

    rotary_base = ("rope_theta", 500000.0)
    local_rotary = f"local/{ROTARY}"
    has_window = True
    global_every = 4

    def write_rotary(self, file: GinFile) -> None:
        everywhere, local = Rotary.of(self.settings, FULL), Rotary.of(self.settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base(*self.rotary_base))
        everywhere.write_scaling(file)
        if not any(self.windows):
            return
        base = self.rotary_base[1]
        if local.name == "rope_parameters":
            base = local.parameters.number("rope_theta", base)
        file.bind(self.local_rotary, {"base": base, "scaling": None})
        if local.name == "rope_parameters":  # version 4 scales only global layers
            local.write_scaling(file, "local/")


class SmolLM3(Llama):
    """Llama without positions in some layers."""

    file = "smollm3"
    scope = "no_positions/"
    sublayers = (*(GLOBAL, GATED) * 3, f"{scope}{GLOBAL}", GATED)
    rotary_base = ("rope_theta", 2000000.0)
    num_positions = ("max_position_embeddings", 32768)
    is_tied_by_default = True
    has_window = ("use_sliding_window", False)
    default_window = None

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if f"{self.scope}{LOCAL}" in self.blocks.sublayers:
            file.bind(f"{self.scope}{LOCAL}", {"rotary": False})

    @functools.cached_property
    def blocks(self) -> Blocks:
        layers = zip(self.windows, self._have_positions, strict=True)
        names = ((LOCAL if window else GLOBAL, rotates) for window, rotates in layers)
        return Blocks([(x if rotates else f"{self.scope}{x}", GATED) for x, rotates in names])

    def is_local(self, layer: int) -> bool:
        return not self._have_positions[layer]

    @functools.cached_property
    def _have_positions(self) -> list[bool]:
        settings, name = self.settings, "no_rope_layers"
        number, flags = settings.count("num_hidden_layers"), settings.values.get(name)
        if flags is None:
            interval = settings.integer("no_rope_layer_interval", 4)
            return [(layer + 1) % interval != 0 for layer in range(number)]
        if not isinstance(flags, list) or len(flags) < number:
            raise settings.error(name, f"must have {number} entries")
        if any(flag not in (0, 1) for flag in flags):
            raise settings.error(name, "must be a list of 1, with positions, and 0, without")
        return [bool(flag) for flag in flags[:number]]


class Phi3(Llama):
    """Llama with fused projections, and an optional window in all layers."""

    file = "phi3"
    epsilon = ("rms_norm_eps", 1e-5)
    num_positions = ("max_position_embeddings", 4096)
    rotated_share = ("partial_rotary_factor", 1.0)
    rates = ("resid_pdrop", "attention_dropout")
    biases = (False, False)
    map_biases = False
    has_window = True
    default_window = None
    reads_layer_types = False
    projections = ("qkv_proj", "o_proj")
    maps = ("mlp.gate_up_proj", "mlp.down_proj")


class Glm(Llama):
    """Llama with adjacent rotated pairs, and Phi-3's feed-forward layer."""

    file = "phi3"
    epsilon = ("rms_norm_eps", 1.5625e-07)
    head_size = 128
    num_positions = ("max_position_embeddings", 131072)
    rotated_share = ("partial_rotary_factor", 0.5)
    rotates_pairs = True
    rates = ("resid_pdrop", "attention_dropout")
    biases = (("attention_bias", True), False)
    maps = Phi3.maps
    map_biases = False


class Glm4(Glm):
    """GLM with norms on both sides of sublayers."""

    norm_names = (
        *("input_layernorm", "post_self_attn_layernorm"),
        *("post_attention_layernorm", "post_mlp_layernorm"),
    )

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        names = ("RMSNorm", "CallLayer", "RMSNorm", "SublayerDropout", "Residual")
        write_transforms(file, *names)


class Gemma(Llama):
    file = "gemma"
    head_size = 256
    num_positions = ("max_position_embeddings", 8192)
    is_tied_by_default = True
    activation = ("hidden_act", "gelu_pytorch_tanh")

    @property
    def function(self) -> str:
        name = super().function
        # As transformers: the first models have the wrong name.
        return self.activation[1] if name == "gelu" else name


class Gemma2(Gemma):
    """Gemma with more norms, windows, and soft caps of logits."""

    file = "gemma2"
    sublayers: Sequence[str] = (LOCAL, GATED, GLOBAL, GATED)
    activation = ("hidden_activation", "gelu_pytorch_tanh")
    norm_names = (
        *("input_layernorm", "post_attention_layernorm"),
        *("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    )
    has_window = True
    global_every = 2
    caps: Sequence[tuple[str, str, float | None]] = (
        ("ATTENTION_CAP", "attn_logit_softcapping", 50.0),
        ("LOGITS_CAP", "final_logit_softcapping", 30.0),
    )

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        for macro, name, default in self.caps:
            cap = self.settings.values.get(name, default)
            file.macro(macro, None if cap is None else self.settings.number(name, default))
        size = self.settings.integer("query_pre_attn_scalar", 256)
        if size != self.size_of_head:
            file.bind("transformer.AttentionHeads", {"scaled_logits": size**-0.5})

    @property
    def function(self) -> str:
        return self.settings.text(*self.activation)


class Gemma3(Gemma2):
    """Gemma 2 with query and key norms, and rotary positions by type of layer."""

    file = "gemma3"
    sublayers = (*(LOCAL, GATED) * 5, GLOBAL, GATED)
    num_positions = ("max_position_embeddings", 131072)
    head_norm = SAME
    global_every = 6
    local_rotary = f"local/{ROTARY}"
    caps = (("LOGITS_CAP", "final_logit_softcapping", None),)

    def write_rotary(self, file: GinFile) -> None:
        everywhere, local = Rotary.of(self.settings, FULL), Rotary.of(self.settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base("rope_theta", 1e6))
        file.macro("LOCAL_ROTARY_BASE", local.base("rope_local_base_freq", 10000.0))
        everywhere.write_scaling(file)
        if local.name == "rope_parameters":  # version 4 scales only global layers
            local.write_scaling(file, "local/")
