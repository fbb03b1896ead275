"""BLOOM: ALiBi instead of positions. Le Scao et al. 2022, arXiv:2211.05100."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.gpt.gpt_neox import GPTNeoX
from mtfrun.extras.huggingface.families.gpt.phi import LAYERS
from mtfrun.extras.huggingface.family import Blocks
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, TensorTable, norm_rows

_OLDER = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}


class Bloom(GPTNeoX):
    """GPT-NeoX's tensors by other names, of layers one after the other."""

    model_types: ClassVar[Sequence[str]] = ("bloom",)
    architectures: ClassVar[Sequence[str]] = ("BloomForCausalLM",)
    name: ClassVar[str] = "BLOOM"
    shipped_file: ClassVar[str] = "extras/huggingface/models/bloom.gin"
    sublayers: ClassVar[Sequence[str]] = LAYERS
    is_tied_by_default: ClassVar[bool] = True
    num_heads: ClassVar[str] = "n_head"
    num_layers: ClassVar[str] = "n_layer"
    d_ff: ClassVar[str] = "n_inner"
    num_positions: ClassVar[str] = "seq_length"
    epsilon: ClassVar[str] = "layer_norm_epsilon"
    activation: ClassVar[tuple[str, str]] = ("activation_function", "gelu_new")
    embedding: ClassVar[str] = "transformer.word_embeddings.weight"
    softmax: ClassVar[str] = "lm_head"
    last_norm: ClassVar[str] = "transformer.ln_f"
    layers: ClassVar[str] = "transformer.h"
    attention_name: ClassVar[str] = "self_attention"
    kept: ClassVar[str] = ""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings = _by_newer_names(settings)
        settings.require("apply_residual_connection_post_layernorm", *(False,))
        super().write_gin(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        return super().table(_by_newer_names(settings))

    def rows(self, settings: Settings) -> Sequence[Row]:
        norm = norm_rows("transformer.word_embeddings_layernorm", "decoder_stack/norm")
        return [*super().rows(settings), *norm]

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count(self.num_layers))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        """Adds nothing: there are no variants."""


def _by_newer_names(settings: Settings) -> Settings:
    """BLOOM's first folders have other names of sizes, which transformers takes, too."""
    names = {older: newer for older, newer in _OLDER.items() if older in settings.values}
    newer = {name: settings.values[older] for older, name in names.items()}
    return dataclasses.replace(settings, values={**newer, **settings.values})
