"""Decoders with fused queries, keys and values: GPT-NeoX and Pythia, BLOOM, Falcon.

Black et al. 2022, arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373; Le Scao et al. 2022,
arXiv:2211.05100; Almazrouei et al. 2023, arXiv:2311.16867.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import Decoder, Setting
from mtfrun.extras.huggingface.family import LAYERS, PARALLEL, Blocks, classes, write_transforms
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, TensorTable, norm_rows

_DISTANCES = "transformer.LinearDistanceBias"
# BLOOM's first folders have older names, which transformers accepts.
_OLDER = (
    *(("n_embed", "hidden_size"), ("num_attention_heads", "n_head")),
    ("num_hidden_layers", "n_layer"),
)
_ONE_AFTER_THE_OTHER = ("LayerNorm", "CallLayer", "SublayerDropout", "Residual")


class GPTNeoX(Decoder):
    """Parallel attention and feed-forward layer, each after a layer norm."""

    file = "gpt_neox"
    sublayers: ClassVar[Sequence[str]] = (PARALLEL,)
    activation = ("hidden_act", "gelu")
    rotary_base = ("rotary_emb_base", 10000.0)
    rotated_share: ClassVar[Setting | None] = ("rotary_pct", 0.25)
    rates: ClassVar[Sequence[str]] = ("hidden_dropout", "attention_dropout", "hidden_dropout")
    embedding = "gpt_neox.embed_in.weight"
    softmax = "embed_out"
    last_norm = "gpt_neox.final_layer_norm"
    layers = "gpt_neox.layers"
    attention_name = "attention"
    projections = ("query_key_value", "dense")
    fuses_heads = True
    norm_names = ("input_layernorm", "post_attention_layernorm")
    kept = r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)"
    maps = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    is_parallel: ClassVar[Flag] = ("use_parallel_residual", True)
    biases: ClassVar[tuple[Flag, Flag]] = (("attention_bias", True),) * 2

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if not settings.flag("use_parallel_residual", default=True):
            write_transforms(file, *_ONE_AFTER_THE_OTHER)

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        return super().norms(settings, theirs, inner, inner)


class Bloom(GPTNeoX):
    """Sequential layers, with ALiBi instead of positions."""

    file = "bloom"
    sublayers = Decoder.sublayers
    is_tied_by_default = True
    num_heads = "n_head"
    num_layers = "n_layer"
    d_ff = "n_inner"
    num_positions = ("seq_length", 2048)
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation_function", "gelu_new")
    embedding = "transformer.word_embeddings.weight"
    softmax = "lm_head"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    attention_name = "self_attention"
    kept = ""
    is_parallel = False
    has_rotary = False
    biases = (True, True)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings = self._by_newer_names(settings)
        settings.require("apply_residual_connection_post_layernorm", *(False,))
        super().write_gin(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        return super().table(self._by_newer_names(settings))

    def rows(self, settings: Settings) -> list[Row]:
        norm = norm_rows("transformer.word_embeddings_layernorm", "decoder_stack/norm")
        return [*super().rows(settings), *norm]

    def _by_newer_names(self, settings: Settings) -> Settings:
        newer = {new: settings.values[old] for old, new in _OLDER if old in settings.values}
        return dataclasses.replace(settings, values={**newer, **settings.values})


class Falcon(GPTNeoX):
    """One memory head, one per head, or any number in the "new decoder architecture"."""

    file = "falcon"
    usual_biases = (False, False)
    is_tied_by_default = True
    is_grouped = True
    d_ff = "ffn_hidden_size"
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation", "gelu")
    rotary_base = ("rope_theta", 10000.0)
    rotated_share = None
    rates = ("hidden_dropout", "attention_dropout")
    embedding = "transformer.word_embeddings.weight"
    softmax = "lm_head"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    attention_name = "self_attention"
    kept = r"transformer\.h\.\d+\.self_attention\.rotary_emb\.inv_freq"
    map_biases = ("bias", False)
    usual_map_bias = False
    biases = (map_biases, map_biases)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        Decoder.write_gin(self, settings, file)
        if not _is_parallel(settings):
            write_transforms(file, *_ONE_AFTER_THE_OTHER)
        elif _num_norms(settings) == 2:
            write_transforms(file, "CallLayer", "Residual")
            names = ("LayerNorm", "CallLayer", "SublayerDropout")
            inner = classes(*(f"transformer.{name}" for name in names))
            file.bind(PARALLEL, {"transforms": inner})

    def blocks(self, settings: Settings) -> Blocks:
        layer = (PARALLEL,) if _is_parallel(settings) else LAYERS
        return Blocks([layer] * settings.count(self.num_layers))

    def memory_heads(self, settings: Settings) -> int:
        heads = settings.integer(self.num_heads)
        if _is_new(settings):
            return settings.integer("num_kv_heads", heads)
        return 1 if settings.flag("multi_query", default=True) else heads

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        """Adds rotary positions, or ALiBi with the rounding and scale of transformers."""
        if not settings.flag("alibi", default=False):
            super().write_rotary(settings, file)
            return
        file.bind("transformer.SelfAttention", {"rotary": False})
        file.bind("transformer.Stack", {"relative_bias": reference(f"@{_DISTANCES}")})
        scale = self.size_of_head(settings) ** -0.5
        heads = reference("%NUM_HEADS")
        file.bind(_DISTANCES, {"num_heads": heads, "scale": scale, "in_bfloat16": True})

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        if not _is_parallel(settings) or _num_norms(settings) != 2:
            yield from Decoder.norms(self, settings, theirs, outer, inner)
            return
        for name, path in zip(("ln_attn", "ln_mlp"), inner, strict=True):
            yield from norm_rows(f"{theirs}.{name}", f"{path}/norm")


def _is_new(settings: Settings) -> bool:
    return settings.flag("new_decoder_architecture", default=False)


def _is_parallel(settings: Settings) -> bool:
    return _is_new(settings) or settings.flag("parallel_attn", default=True)


def _num_norms(settings: Settings) -> int:
    return settings.integer("num_ln_in_parallel_attn", 2) if _is_new(settings) else 1
