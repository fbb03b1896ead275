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

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import HEADS, Decoder
from mtfrun.extras.huggingface.family import (
    FULL,
    GATED,
    GLOBAL,
    LOCAL,
    SLIDING,
    Blocks,
    ModelDescription,
    used_window,
    windows_by_rule,
    write_transforms,
)
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import Flat, Row, Same


class Llama(Decoder):
    """Llama 1, 2 and 3. `head_size` is a family's default size of a head."""

    file = "llama"
    feed_forward_class = GATED
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, GATED)
    norm_class = "transformer.RMSNorm"
    usual_biases: ClassVar[tuple[bool, bool]] = (False, False)
    usual_map_bias = False
    is_grouped = True
    local_rotary = ROTARY
    head_size: ClassVar[int | None] = None
    epsilon = ("rms_norm_eps", 1e-6)
    activation = ("hidden_act", "silu")
    rates: ClassVar[Sequence[str]] = ("", "attention_dropout")
    projections: ClassVar[Sequence[str]] = ("q_proj", "k_proj", "v_proj", "o_proj")
    norm_names: ClassVar[Sequence[str]] = ("input_layernorm", "post_attention_layernorm")
    # Buffers of frequencies in files of earlier versions.
    kept = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    maps: ClassVar[Sequence[str]] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    biases: ClassVar[tuple[Flag, Flag]] = (("attention_bias", False),) * 2
    map_biases: ClassVar[Flag] = ("mlp_bias", False)

    def settings_of(self, model: ModelDescription) -> Settings | None:
        base = model.parameter("transformer.RotaryPositions", "base")
        values, mlp_bias = self.common_settings(model), model.parameter(GATED, "use_bias")
        if values is None or None in (base, mlp_bias, values["num_attention_heads"]):
            return None
        memory_heads = model.parameter(HEADS, "num_memory_heads")
        values |= {
            "num_key_value_heads": memory_heads or values["num_attention_heads"],
            "head_dim": model.parameter(HEADS, "d_kv"),
            "rope_theta": base,
            "rope_parameters": {"rope_type": "default", "rope_theta": base},
            "attention_bias": model.parameter(HEADS, "use_bias"),
            "mlp_bias": mlp_bias,
        }
        return Settings(values, "the model")

    def hidden_size(self, settings: Settings) -> int:
        return settings.integer("intermediate_size")

    def size_of_head(self, settings: Settings) -> int:
        heads = settings.integer("num_attention_heads")
        size = settings.optional_integer("head_dim") or self.head_size
        size = size or settings.integer("hidden_size") // heads
        if not size:
            raise settings.error("num_attention_heads", "is larger than hidden_size")
        return size

    def norm(self, theirs: str, ours: str) -> Iterator[Row]:
        yield Row(f"{theirs}.weight", f"{ours}/scale", Same())


class Mistral(Llama):
    """Llama with an optional window in all layers."""

    biases = (False, False)
    has_window = True
    default_window: ClassVar[int | None] = 4096


class Qwen2(Llama):
    """Llama with biases of queries, keys and values, and a window in some layers."""

    biases: ClassVar[tuple[Flag, Flag]] = (True, False)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        def is_late(layer: int) -> bool:
            first = settings.values.get("max_window_layers", 28)
            if type(first) is not int:
                raise settings.error("max_window_layers", "must be an integer")
            return layer >= first

        return windows_by_rule(settings, used_window(settings), is_late)


class Qwen3(Qwen2):
    """Qwen2 with query and key norms."""

    file = "qwen3"
    head_size: ClassVar[int | None] = 128
    head_norm = Same()
    num_positions = ("max_position_embeddings", 32768)
    biases = Llama.biases


class Granite(Llama):
    """Llama with constant factors."""

    file = "granite"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        for macro, name in (("EMBEDDING", "embedding"), ("RESIDUAL", "residual")):
            file.macro(f"{macro}_FACTOR", settings.number(f"{name}_multiplier", 1.0))
        factor = settings.number("attention_multiplier", 1.0)
        divisor = settings.number("logits_scaling", 1.0)
        for name, value in (("attention_multiplier", factor), ("logits_scaling", divisor)):
            if not value:
                raise settings.error(name, "must not be 0")
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
    global_every = 4

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base(*self.rotary_base))
        everywhere.write_scaling(file)
        if not any(self.windows(settings)):
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
    scope: ClassVar[str] = "no_positions/"
    sublayers = (*(GLOBAL, GATED) * 3, f"{scope}{GLOBAL}", GATED)
    rotary_base = ("rope_theta", 2000000.0)
    num_positions = ("max_position_embeddings", 32768)
    is_tied_by_default = True

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if f"{self.scope}{LOCAL}" in self.blocks(settings).sublayers:
            file.bind(f"{self.scope}{LOCAL}", {"rotary": False})

    def blocks(self, settings: Settings) -> Blocks:
        layers = zip(self.windows(settings), self._have_positions(settings), strict=True)
        names = ((LOCAL if window else GLOBAL, rotates) for window, rotates in layers)
        return Blocks([(x if rotates else f"{self.scope}{x}", GATED) for x, rotates in names])

    def windows(self, settings: Settings) -> Sequence[int | None]:
        have_positions, window = self._have_positions(settings), used_window(settings, None)
        return windows_by_rule(settings, window, lambda layer: not have_positions[layer])

    def _have_positions(self, settings: Settings) -> list[bool]:
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

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        names = ("RMSNorm", "CallLayer", "RMSNorm", "SublayerDropout", "Residual")
        write_transforms(file, *names)


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
