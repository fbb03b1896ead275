"""GPT-2, GPT-Neo, GPT-J, OPT, Phi-1 and 2.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Black et al. 2021,
https://doi.org/10.5281/zenodo.5297715; Wang and Komatsuzaki 2021,
https://github.com/kingoflolz/mesh-transformer-jax; Zhang et al. 2022, arXiv:2205.01068; Gunasekar
et al. 2023, arXiv:2306.11644; Li et al. 2023, arXiv:2309.05463.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import HEADS, RATES, Decoder
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GLOBAL,
    PARALLEL,
    Blocks,
    ModelDescription,
    write_transforms,
)
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, norm_rows

# Logits of layer i have the factor 1 / (i + 1).
_BY_LAYER = "scale_attn_by_inverse_layer_idx"
_COLUMNS = "word_embed_proj_dim"


class GPT2(Decoder):
    """Learned positions, layer norms, biases; kernels are [in, out], with fused projections."""

    file = "gpt2"
    is_tied_by_default = True
    matrix = Matrix(transposed=False)
    width = "n_embd"
    num_heads = "n_head"
    num_layers = "n_layer"
    d_ff = "n_inner"
    num_positions = ("n_positions", 1024)
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation_function", "gelu_new")
    rates: ClassVar[Sequence[str]] = ("resid_pdrop", "attn_pdrop", "embd_pdrop")
    default_rate = 0.1
    embedding = "transformer.wte.weight"
    position_table = "transformer.wpe.weight"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    # Masks in older files.
    kept = r"transformer\.h\.\d+\.attn\.(masked_)?bias"
    attention_name = "attn"
    projections: ClassVar[Sequence[str]] = ("c_attn", "c_proj")
    norm_names = ("ln_1", "ln_2")
    maps = ("mlp.c_fc", "mlp.c_proj")
    has_rotary = False

    def settings_of(self, model: ModelDescription) -> Settings | None:
        values, positions = self.common_settings(model), model.shapes.get("position/table")
        if values is None or positions is None or model.num_blocks("encoder_stack"):
            return None
        if values["layer_norm_epsilon"] is None:
            return None
        dropout = model.parameter("transformer.SublayerDropout", "rate")
        embedding = model.parameter("embedding/transformer.SublayerDropout", "rate")
        values |= {
            "n_positions": positions[0],
            "resid_pdrop": dropout,
            "embd_pdrop": dropout if embedding is None else embedding,
            "scale_attn_weights": model.parameter(HEADS, "scaled_logits"),
        }
        return Settings(values, "the model")

    def write_rates(self, settings: Settings, file: GinFile) -> None:
        rates = [settings.number(name, self.default_rate) for name in self.rates]
        for macro, rate in zip(RATES, rates, strict=True):
            if macro == RATES[0] or rate != rates[0]:
                file.macro(macro, rate)

    def blocks(self, settings: Settings) -> Blocks:
        if not settings.flag(_BY_LAYER, default=False):
            return super().blocks(settings)
        number = settings.count("n_layer")
        return Blocks([(f"layer_{layer}/{GLOBAL}", FEED_FORWARD) for layer in range(number)])

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        settings.require("add_cross_attention", *(False,))
        is_scaled = settings.flag("scale_attn_weights", default=True)
        if settings.flag(_BY_LAYER, default=False):
            factor = self.size_of_head(settings) ** -0.5 if is_scaled else 1.0
            for layer in range(settings.count("n_layer")):
                scope = f"layer_{layer}/"
                heads = reference(f"@{scope}{HEADS}()")
                file.bind(f"{scope}{GLOBAL}", {"heads": heads})
                file.bind(f"{scope}{HEADS}", {"scaled_logits": factor / (layer + 1)})
        elif not is_scaled:
            file.bind(HEADS, {"scaled_logits": False})


class GPTNeo(GPT2):
    """GPT-2 with global and local layers, and unscaled logits."""

    matrix = Matrix()
    width = "hidden_size"
    num_heads = "num_heads"
    num_layers = "num_layers"
    d_ff = "intermediate_size"
    num_positions = ("max_position_embeddings", 2048)
    default_rate = 0.0
    rates = ("resid_dropout", "attention_dropout", "embed_dropout")
    kept = r"transformer\.h\.\d+\.attn\.attention\.(masked_)?bias"
    attention_name = "attn.attention"
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    kinds: ClassVar[tuple[str, str]] = ("global", "local")
    biases = (False, True)

    def blocks(self, settings: Settings) -> Blocks:
        return Decoder.blocks(self, settings)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        number = settings.count("num_layers")
        kinds = self._kinds(settings, number + 1)
        if len(kinds) != number:
            raise settings.error("attention_types", f"must describe {number} layers")
        window = settings.integer("window_size", 256) if "local" in kinds else None
        return [window if kind == "local" else None for kind in kinds]

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        Decoder.write_attention(self, settings, file)
        file.bind(HEADS, {"scaled_logits": False})

    def _kinds(self, settings: Settings, most: int) -> list[str]:
        """Returns "global" or "local" by layer, from [[[kinds in turn], repetitions], ...]."""
        name = "attention_types"
        types = settings.values.get(name)
        if types is None:
            types = [[[*self.kinds], 12]]
        try:
            every = (kind for in_turn, times in types for _ in range(times) for kind in in_turn)
            kinds = list(itertools.islice(every, most))
        except (TypeError, ValueError) as error:
            raise settings.error(name, "must be a list of [[kinds in turn], how often]") from error
        if any(kind not in self.kinds for kind in kinds):
            raise settings.error(name, "must be of the kinds global and local")
        return kinds


class Phi(Decoder):
    """Parallel attention and feed-forward layer after one layer norm."""

    file = "phi"
    sublayers = (PARALLEL,)
    has_softmax_bias = True
    is_grouped = True
    rotated_share = ("partial_rotary_factor", 0.5)
    rates = ("resid_pdrop", "attention_dropout", "embd_pdrop")
    last_norm = "model.final_layernorm"
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
