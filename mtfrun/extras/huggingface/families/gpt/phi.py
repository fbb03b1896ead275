"""Phi-1 and 2, GPT-J, OPT.

Gunasekar et al. 2023, arXiv:2306.11644; Li et al. 2023, arXiv:2309.05463; Wang and Komatsuzaki
2021, https://github.com/kingoflolz/mesh-transformer-jax; Zhang et al. 2022, arXiv:2205.01068.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import Decoder
from mtfrun.extras.huggingface.family import PARALLEL, write_transforms
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, norm_rows

_COLUMNS = "word_embed_proj_dim"


class Phi(Decoder):
    """Parallel attention and feed-forward layer after one layer norm."""

    file = "phi"
    sublayers = (PARALLEL,)
    has_softmax_bias = True
    is_grouped = True
    rotated_share = ("partial_rotary_factor", 0.5)
    rates = ("resid_pdrop", "attention_dropout", "embd_pdrop")
    embedding = "model.embed_tokens.weight"
    last_norm = "model.final_layernorm"
    layers = "model.layers"
    attention_name = "self_attn"
    norm_names = ("input_layernorm",)
    kept = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    projections = ("q_proj", "k_proj", "v_proj", "dense")
    maps = ("mlp.fc1", "mlp.fc2")
    is_parallel = True

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        super().write_attention(settings, file)
        if settings.flag("qk_layernorm", default=False):
            norm = reference("@transformer.LayerNorm")
            file.bind("transformer.AttentionHeads", {"norm": norm})

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().attention(settings, theirs, ours)
        if settings.flag("qk_layernorm", default=False):
            for name in ("query", "key"):
                yield from norm_rows(f"{theirs}.{name[0]}_layernorm", f"{ours}/{name}_norm")


class GPTJ(Decoder):
    """Phi without attention biases, and with adjacent rotated pairs."""

    file = "gptj"
    sublayers = (PARALLEL,)
    biases = usual_biases = (False, False)
    has_softmax_bias = True
    rotates_pairs = True
    width = "n_embd"
    num_heads = "n_head"
    num_layers = "n_layer"
    d_ff = "n_inner"
    num_positions = ("n_positions", 2048)
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation_function", "gelu_new")
    rates = ("resid_pdrop", "attn_pdrop", "embd_pdrop")
    embedding = "transformer.wte.weight"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    kept = r"transformer\.h\.\d+\.attn\.(masked_)?bias"
    attention_name = "attn"
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    norm_names = ("ln_1",)
    maps = ("mlp.fc_in", "mlp.fc_out")
    is_parallel = True

    def write_rotary(self, settings: Settings, file: GinFile) -> None:
        file.macro("ROTATED", self.num_rotated(settings))

    def num_rotated(self, settings: Settings) -> int | None:
        size, rotated = self.size_of_head(settings), settings.integer("rotary_dim", 64)
        if rotated > size or rotated % 2:
            raise settings.error("rotary_dim", f"must be even and at most {size}, as a head has")
        return None if rotated == size else rotated


class Opt(Decoder):
    """GPT-2 with relu.

    The model of 350 million parameters has a factorised embedding, and norms after sublayers.
    Models fine-tuned before transformers 4.20.1 lack the last norm.
    """

    file = "opt"
    is_tied_by_default = True
    d_ff = "ffn_dim"
    activation = ("activation_function", "relu")
    rates = ("dropout", "attention_dropout")
    embedding = "model.decoder.embed_tokens.weight"
    position_table = "model.decoder.embed_positions.weight"
    last_norm = "model.decoder.final_layer_norm"
    layers = "model.decoder.layers"
    attention_name = "self_attn"
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    norm_names = ("self_attn_layer_norm", "final_layer_norm")
    maps = ("fc1", "fc2")
    has_rotary = False

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        for name in ("enable_bias", "layer_norm_elementwise_affine"):
            settings.require(name, *(True,))
        super().write_gin(settings, file)
        if _is_factorised(settings):
            if not self.is_tied(settings):
                raise settings.error(
                    _COLUMNS, "is not supported beside a softmax that is not the embedding's table"
                )
            columns = settings.integer(_COLUMNS)
            file.bind("transformer.TokenEmbedding", {"d_embedding": columns})
        if not _has_norms_before(settings):
            write_transforms(file, "CallLayer", "SublayerDropout", "Residual", "LayerNorm")
        if not self.has_last_norm(settings):
            write_transforms(file, parameter="final")

    def rows(self, settings: Settings) -> list[Row]:
        rows = super().rows(settings)
        if _is_factorised(settings):
            for theirs, ours in (("project_in", "embedding"), ("project_out", "softmax")):
                path = f"{ours}/projection/kernel"
                rows.append(Row(f"model.decoder.{theirs}.weight", path, Matrix()))
        return rows

    def has_last_norm(self, settings: Settings) -> bool:
        is_removed = settings.flag("_remove_final_layer_norm", default=False)
        return _has_norms_before(settings) and not is_removed


def _is_factorised(settings: Settings) -> bool:
    width = settings.integer(Opt.width)
    return settings.integer(_COLUMNS, width) != width


def _has_norms_before(settings: Settings) -> bool:
    return settings.flag("do_layer_norm_before", default=True)
