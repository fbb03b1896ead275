"""GPT-2, GPT-Neo, GPT-J, OPT, Phi-1 and 2, GPT-NeoX and Pythia, BLOOM, Falcon.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; Black et al. 2021,
https://doi.org/10.5281/zenodo.5297715; Wang and Komatsuzaki 2021,
https://github.com/kingoflolz/mesh-transformer-jax; Zhang et al. 2022, arXiv:2205.01068; Gunasekar
et al. 2023, arXiv:2306.11644; Li et al. 2023, arXiv:2309.05463; Black et al. 2022,
arXiv:2204.06745; Biderman et al. 2023, arXiv:2304.01373; Le Scao et al. 2022, arXiv:2211.05100;
Almazrouei et al. 2023, arXiv:2311.16867.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.decoder import HEADS, RATES, Decoder, Setting
from mtfrun.extras.huggingface.family import (
    FEED_FORWARD,
    GLOBAL,
    LAYERS,
    PARALLEL,
    Blocks,
    classes,
    write_transforms,
)
from mtfrun.extras.huggingface.tables.settings import Flag, Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable

# Logits of layer i have the factor 1 / (i + 1).
_BY_LAYER = "scale_attn_by_inverse_layer_idx"
_COLUMNS = "word_embed_proj_dim"
_DISTANCES = "transformer.LinearDistanceBias"
_ONE_AFTER_THE_OTHER = ("LayerNorm", "CallLayer", "SublayerDropout", "Residual")


class GPT(Decoder):
    """The names of the first GPT."""

    width = "n_embd"
    num_heads = "n_head"
    num_layers = "n_layer"
    d_ff = "n_inner"
    num_positions = ("n_positions", 2048)
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation_function", "gelu_new")
    rates: Sequence[str] = ("resid_pdrop", "attn_pdrop", "embd_pdrop")
    embedding = "transformer.wte"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    # Masks in older files.
    kept = r"transformer\.h\.\d+\.attn\.(masked_)?bias"
    attention_name = "attn"


class GPT2(GPT):
    """Learned positions, layer norms, biases; kernels are [in, out], with fused projections."""

    file = "gpt2"
    is_tied_by_default = True
    is_transposed = False
    num_positions = ("n_positions", 1024)
    default_rate = 0.1
    position_table = "transformer.wpe"
    projections: Sequence[str] = ("c_attn", "c_proj")
    norm_names = ("ln_1", "ln_2")
    maps = ("mlp.c_fc", "mlp.c_proj")
    has_rotary = False

    def write_rates(self, file: GinFile) -> None:
        rates = [self.settings.number(name, self.default_rate) for name in self.rates]
        for macro, rate in zip(RATES, rates, strict=True):
            if macro == RATES[0] or rate != rates[0]:
                file.macro(macro, rate)

    @functools.cached_property
    def blocks(self) -> Blocks:
        if not self.settings.flag(_BY_LAYER, default=False):
            return super().blocks
        number = self.settings.count("n_layer")
        return Blocks([(f"layer_{layer}/{GLOBAL}", FEED_FORWARD) for layer in range(number)])

    def write_attention(self, file: GinFile) -> None:
        self.settings.require("add_cross_attention", *(False,))
        is_scaled = self.settings.flag("scale_attn_weights", default=True)
        if self.settings.flag(_BY_LAYER, default=False):
            factor = self.size_of_head**-0.5 if is_scaled else 1.0
            for layer in range(self.settings.count("n_layer")):
                scope = f"layer_{layer}/"
                file.bind(f"{scope}{GLOBAL}", {"heads": reference(f"@{scope}{HEADS}()")})
                file.bind(f"{scope}{HEADS}", {"scaled_logits": factor / (layer + 1)})
        elif not is_scaled:
            file.bind(HEADS, {"scaled_logits": False})


class GPTNeo(GPT2):
    """GPT-2 with global and local layers, and unscaled logits."""

    is_transposed = True
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
    biases = (False, True)

    @property
    def window(self) -> int | None:
        return self.settings.integer("window_size", 256)

    @functools.cached_property
    def windows(self) -> Sequence[int | None]:
        """By [[[kinds in turn], repetitions], ...]."""
        settings, name = self.settings, "attention_types"
        number, types = settings.count("num_layers"), settings.values.get(name)
        types = [[["global", "local"], 12]] if types is None else types
        try:
            every = (kind for in_turn, times in types for _ in range(times) for kind in in_turn)
            kinds = list(itertools.islice(every, number + 1))
        except (TypeError, ValueError) as error:
            raise settings.error(name, "must be a list of [[kinds in turn], how often]") from error
        if any(kind not in ("global", "local") for kind in kinds):
            raise settings.error(name, "must be of the kinds global and local")
        if len(kinds) != number:
            raise settings.error(name, f"must describe {number} layers")
        return [self.window if kind == "local" else None for kind in kinds]

    def write_attention(self, file: GinFile) -> None:
        Decoder.write_attention(self, file)
        file.bind(HEADS, {"scaled_logits": False})


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

    def write_attention(self, file: GinFile) -> None:
        super().write_attention(file)
        if self.settings.flag("qk_layernorm", default=False):
            file.bind(HEADS, {"norm": reference("@transformer.LayerNorm")})

    def add_attention(self, table: TensorTable, theirs: str, ours: str) -> None:
        super().add_attention(table, theirs, ours)
        if self.settings.flag("qk_layernorm", default=False):
            for name in ("query", "key"):
                table.norm(f"{theirs}.{name[0]}_layernorm", f"{ours}/{name}_norm")


class GPTJ(GPT):
    """Phi without attention biases, and with adjacent rotated pairs."""

    file = "gptj"
    sublayers = (PARALLEL,)
    biases = usual_biases = (False, False)
    has_softmax_bias = True
    rotates_pairs = True
    projections = GPTNeo.projections
    norm_names = ("ln_1",)
    maps = ("mlp.fc_in", "mlp.fc_out")
    is_parallel = True

    def write_rotary(self, file: GinFile) -> None:
        file.macro("ROTATED", self.num_rotated)

    @property
    def num_rotated(self) -> int | None:
        size, rotated = self.size_of_head, self.settings.integer("rotary_dim", 64)
        if rotated > size or rotated % 2:
            problem = f"must be even and at most {size}, as a head has"
            raise self.settings.error("rotary_dim", problem)
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
    embedding = "model.decoder.embed_tokens"
    position_table = "model.decoder.embed_positions"
    last_norm = "model.decoder.final_layer_norm"
    layers = "model.decoder.layers"
    projections = GPTNeo.projections
    norm_names = ("self_attn_layer_norm", "final_layer_norm")
    maps = ("fc1", "fc2")
    has_rotary = False

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        width = settings.integer(self.width)
        self.is_factorised = settings.integer(_COLUMNS, width) != width
        self.has_norms_before = settings.flag("do_layer_norm_before", default=True)
        is_removed = settings.flag("_remove_final_layer_norm", default=False)
        self.has_last_norm = self.has_norms_before and not is_removed

    def write_gin(self, file: GinFile) -> None:
        for name in ("enable_bias", "layer_norm_elementwise_affine"):
            self.settings.require(name, *(True,))
        super().write_gin(file)
        if self.is_factorised:
            if not self.is_tied:
                problem = "is not supported beside a softmax that is not the embedding's table"
                raise self.settings.error(_COLUMNS, problem)
            columns = self.settings.integer(_COLUMNS)
            file.bind("transformer.TokenEmbedding", {"d_embedding": columns})
        if not self.has_norms_before:
            write_transforms(file, "CallLayer", "SublayerDropout", "Residual", "LayerNorm")
        if not self.has_last_norm:
            write_transforms(file, parameter="final")

    def table(self) -> TensorTable:
        table = super().table()
        if self.is_factorised:
            for theirs, ours in (("project_in", "embedding"), ("project_out", "softmax")):
                table.dense(f"model.decoder.{theirs}", f"{ours}/projection", has_bias=False)
        return table


class GPTNeoX(Decoder):
    """Parallel attention and feed-forward layer, each after a layer norm."""

    file = "gpt_neox"
    sublayers: Sequence[str] = (PARALLEL,)
    activation = ("hidden_act", "gelu")
    rotary_base = ("rotary_emb_base", 10000.0)
    rotated_share: Setting | None = ("rotary_pct", 0.25)
    rates: Sequence[str] = ("hidden_dropout", "attention_dropout", "hidden_dropout")
    embedding = "gpt_neox.embed_in"
    softmax = "embed_out"
    last_norm = "gpt_neox.final_layer_norm"
    layers = "gpt_neox.layers"
    attention_name = "attention"
    projections = ("query_key_value", "dense")
    fuses_heads = True
    norm_names = ("input_layernorm", "post_attention_layernorm")
    kept = r"gpt_neox\.layers\.\d+\.attention\.((masked_)?bias|rotary_emb\.inv_freq)"
    maps = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    is_parallel: Flag = ("use_parallel_residual", True)
    biases: tuple[Flag, Flag] = (("attention_bias", True),) * 2

    def write_gin(self, file: GinFile) -> None:
        super().write_gin(file)
        if not self.settings.flag("use_parallel_residual", default=True):
            write_transforms(file, *_ONE_AFTER_THE_OTHER)

    def add_norms(
        self, table: TensorTable, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> None:
        super().add_norms(table, theirs, inner, inner)


class Bloom(GPTNeoX):
    """Sequential layers, with ALiBi instead of positions."""

    file = "bloom"
    sublayers = LAYERS
    is_tied_by_default = True
    num_heads = "n_head"
    num_layers = "n_layer"
    d_ff = "n_inner"
    num_positions = ("seq_length", 2048)
    epsilon = ("layer_norm_epsilon", 1e-5)
    activation = ("activation_function", "gelu_new")
    embedding = "transformer.word_embeddings"
    softmax = "lm_head"
    last_norm = "transformer.ln_f"
    layers = "transformer.h"
    attention_name = "self_attention"
    kept = ""
    is_parallel = False
    has_rotary = False
    biases = (True, True)

    def __init__(self, settings: Settings, name: str) -> None:
        """Reads older names of settings, which transformers accepts, in the first folders."""
        values = dict(settings.values)
        for new, old in (
            *(("hidden_size", "n_embed"), ("n_head", "num_attention_heads")),
            ("n_layer", "num_hidden_layers"),
        ):
            if old in values:
                values.setdefault(new, values[old])
        super().__init__(dataclasses.replace(settings, values=values), name)

    def write_gin(self, file: GinFile) -> None:
        self.settings.require("apply_residual_connection_post_layernorm", *(False,))
        super().write_gin(file)

    def table(self) -> TensorTable:
        table = super().table()
        table.norm("transformer.word_embeddings_layernorm", "decoder_stack/norm")
        return table


class Falcon(GPTNeoX):
    """One memory head, one per head, or any number in the "new decoder architecture"."""

    file = "falcon"
    usual_biases = (False, False)
    is_tied_by_default = True
    is_grouped = True
    d_ff = "ffn_hidden_size"
    epsilon = Bloom.epsilon
    activation = ("activation", "gelu")
    rotary_base = ("rope_theta", 10000.0)
    rotated_share = None
    rates = ("hidden_dropout", "attention_dropout")
    embedding = Bloom.embedding
    softmax = Bloom.softmax
    last_norm = Bloom.last_norm
    layers = Bloom.layers
    attention_name = Bloom.attention_name
    kept = r"transformer\.h\.\d+\.self_attention\.rotary_emb\.inv_freq"
    map_biases = ("bias", False)
    usual_map_bias = False
    biases = (map_biases, map_biases)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.is_new = settings.flag("new_decoder_architecture", default=False)
        self.has_parallel = self.is_new or settings.flag("parallel_attn", default=True)
        # Layers in parallel may have a norm each.
        self.has_two_norms = self.is_new and settings.integer("num_ln_in_parallel_attn", 2) == 2

    def write_gin(self, file: GinFile) -> None:
        Decoder.write_gin(self, file)
        if not self.has_parallel:
            write_transforms(file, *_ONE_AFTER_THE_OTHER)
        elif self.has_two_norms:
            write_transforms(file, "CallLayer", "Residual")
            names = ("LayerNorm", "CallLayer", "SublayerDropout")
            inner = classes(*(f"transformer.{name}" for name in names))
            file.bind(PARALLEL, {"transforms": inner})

    @functools.cached_property
    def blocks(self) -> Blocks:
        layer = (PARALLEL,) if self.has_parallel else LAYERS
        return Blocks([layer] * self.settings.count(self.num_layers))

    @property
    def memory_heads(self) -> int:
        heads = self.settings.integer(self.num_heads)
        if self.is_new:
            return self.settings.integer("num_kv_heads", heads)
        return 1 if self.settings.flag("multi_query", default=True) else heads

    def write_rotary(self, file: GinFile) -> None:
        """Adds rotary positions, or ALiBi with the rounding and scale of transformers."""
        if not self.settings.flag("alibi", default=False):
            super().write_rotary(file)
            return
        file.bind(GLOBAL, {"rotary": False})
        file.bind("transformer.Stack", {"relative_bias": reference(f"@{_DISTANCES}")})
        heads, scale = reference("%NUM_HEADS"), self.size_of_head**-0.5
        file.bind(_DISTANCES, {"num_heads": heads, "scale": scale, "in_bfloat16": True})

    def add_norms(
        self, table: TensorTable, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> None:
        if not self.has_two_norms:
            Decoder.add_norms(self, table, theirs, outer, inner)
            return
        for name, path in zip(("ln_attn", "ln_mlp"), inner, strict=True):
            table.norm(f"{theirs}.{name}", f"{path}/norm")
