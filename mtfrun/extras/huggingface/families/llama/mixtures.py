"""Llama with mixtures of experts: Mixtral, Qwen2, Qwen3, OLMoE, DeepSeek-V3; no tokens are dropped.

Jiang et al. 2024, arXiv:2401.04088; Yang et al. 2024, arXiv:2407.10671, and 2025, arXiv:2505.09388;
Muennighoff et al. 2024, arXiv:2409.02060; DeepSeek-AI 2024, arXiv:2412.19437.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, Mistral, Qwen2, Qwen3
from mtfrun.extras.huggingface.family import GATED, GLOBAL, LOCAL, MIXTURE, PARALLEL, Blocks
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    HEAD_ROWS,
    SAME,
    Flat,
    Joined,
    Matrix,
    Permuted,
    Reordered,
    Stacked,
    TensorTable,
    halves_of_pairs,
)

_LATENT, _HEADS = "huggingface.LatentSelfAttention", "huggingface.LatentHeads"


class Mixture(Llama):
    """Llama with mixtures, in `sublayers`, in the place of some feed-forward layers.

    `num_experts`, a setting, to `normalises` are defaults: `choices` experts of a token, of
    `expert_size` or else as large as a feed-forward layer. `shared_layer` is the expert for all
    tokens in a `Parallel`, of `shared_size`, and `shared_name` its module.
    """

    sublayers = (GLOBAL, MIXTURE)
    num_experts = ("num_experts", 64)
    choices = 8
    expert_size: int | None = None
    normalises: bool | None = False
    shared_layer: str
    shared_name: str
    mixture_name = "mlp"
    expert_maps = ("gate_proj", "up_proj", "down_proj")

    @property
    def number_of_experts(self) -> int:
        name, default = self.num_experts
        name = "num_local_experts" if "num_local_experts" in self.settings.values else name
        return self.settings.count(name, default)

    @property
    def shared_size(self) -> int | None:
        return None

    def write_feed_forward(self, file: GinFile) -> None:
        settings = self.settings
        if self.expert_size is not None:
            super().write_feed_forward(file)
            file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", self.expert_size))
        if self.shared_size is not None:
            file.macro("SHARED_D_FF", self.shared_size)
        choices = settings.integer("num_experts_per_tok", self.choices)
        file.macro("NUM_EXPERTS", self.number_of_experts)
        file.macro("EXPERTS_PER_TOKEN", choices)
        if settings.flag("output_router_logits", default=False):
            # With a uniform load, transformers' loss is the number of choices, and a mean over
            # layers; ours is 1, and a sum.
            coefficient = settings.number("router_aux_loss_coef", 0.001) * choices
            layers = settings.count("num_hidden_layers")
            comment = "for each layer; transformers has one for all of them"
            file.macro("BALANCE_LOSS", coefficient / layers, comment)
        function = settings.activation("hidden_act", "silu")
        if str(function) != "@mtf.swish":
            file.bind("moe.Experts", {"activations": [function, None]})
        if self.normalises is not None:
            normalises = settings.flag("norm_topk_prob", default=self.normalises)
            file.bind("moe.TopK", {"normalise": normalises})

    @functools.cached_property
    def blocks(self) -> Blocks:
        """Blocks with the mixture of `sublayers` or a gated feed-forward layer."""
        if self.feed_forward_class == MIXTURE:
            return super().blocks
        step = self.settings.integer("decoder_sparse_step", 1)
        dense = self.settings.values.get("mlp_only_layers") or []
        if not isinstance(dense, list):
            raise self.settings.error("mlp_only_layers", "must be a list of layers")
        mixture = self.sublayers[1]
        layers = [
            (LOCAL if window else GLOBAL, GATED if i in dense or (i + 1) % step else mixture)
            for i, window in enumerate(self.windows)
        ]
        return Blocks(layers)

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        if "/parallel" in ours:
            modules = [f"{theirs}.mlp.{self.shared_name}.{name}" for name in self.expert_maps]
            shared = f"{ours}/layers/{self.shared_layer}/layer"
            has_bias = self.settings.is_set(self.map_biases)
            table.feed_forward(modules, shared, is_gated=True, has_bias=has_bias)
            ours = f"{ours}/layers/moe_1d/layer"
        elif "/moe_1d" not in ours:
            super().add_feed_forward(table, theirs, ours)
            return
        # Version 5 has another name for the form with all experts in one tensor.
        is_fused = f"{theirs}.mlp.experts.down_proj" in self.settings.tensors
        mixture = f"{theirs}.{'mlp' if is_fused else self.mixture_name}"
        paths = [f"{ours}/experts/{x}/kernel" for x in ("wi/factors/0", "wi/factors/1", "wo")]
        table.add(f"{mixture}.gate.weight", f"{ours}/router/kernel", Matrix())
        if is_fused:
            fused = Joined(Permuted((0, 2, 1)), axis=1)
            table.add(f"{mixture}.experts.gate_up_proj", paths[:2], fused)
            table.add(f"{mixture}.experts.down_proj", paths[2], fused)
            return
        for name, path in zip(self.expert_maps, paths, strict=True):
            numbers = range(self.number_of_experts)
            tensors = [f"{mixture}.experts.{i}.{name}.weight" for i in numbers]
            table.add(tensors, path, Stacked(Matrix()))


class Mixtral(Mixture, Mistral):
    default_window = None
    rotary_base = ("rope_theta", 1e6)
    file = "mixtral"
    feed_forward_class = MIXTURE
    num_experts = ("num_local_experts", 8)
    choices = 2
    normalises = None
    mixture_name = "block_sparse_moe"
    expert_maps = ("w1", "w3", "w2")

    def write_feed_forward(self, file: GinFile) -> None:
        super().write_feed_forward(file)
        noise = self.settings.number("router_jitter_noise", 0.0)
        if noise:
            file.bind("moe.Router", {"input_noise": reference("@moe.Jitter()")})
            file.bind("moe.Jitter", {"epsilon": noise})


class Olmoe(Mixture):
    """Llama with mixtures, and norms of all heads' queries and keys together."""

    file = "olmoe"
    feed_forward_class = MIXTURE
    epsilon = ("rms_norm_eps", 1e-5)
    num_positions = ("max_position_embeddings", 4096)
    head_norm = Flat()

    def write_feed_forward(self, file: GinFile) -> None:
        self.settings.require("clip_qkv", None)
        super().write_feed_forward(file)


class Qwen3Moe(Mixture, Qwen3):
    """Mixtures in all or some layers."""

    file = "qwen3_moe"
    head_size = None
    num_experts = ("num_experts", 128)
    expert_size = 768
    reads_layer_types = False

    def is_local(self, layer: int) -> bool:
        return True


class Qwen2Moe(Mixture, Qwen2):
    """Mixtures beside an expert for all tokens."""

    file = "qwen2_moe"
    usual_biases = (True, False)
    sublayers = (GLOBAL, PARALLEL)
    num_positions = ("max_position_embeddings", 32768)
    biases = (("qkv_bias", True), False)
    num_experts = ("num_experts", 60)
    choices = 4
    expert_size = 1408
    shared_layer = shared_name = "shared_expert"

    @property
    def shared_size(self) -> int | None:
        return self.settings.integer("shared_expert_intermediate_size", 5632)

    def write_feed_forward(self, file: GinFile) -> None:
        super().write_feed_forward(file)
        function = self.settings.activation(*self.activation)
        if str(function) != "@mtf.swish":
            file.bind("moe.SharedExpert", {"activation": function})

    def is_local(self, layer: int) -> bool:
        return layer % 2 == 0 and layer < self.settings.non_negative("max_window_layers", 28)

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        super().add_feed_forward(table, theirs, ours)
        if "/parallel" in ours:
            gate = f"{ours}/layers/shared_expert/layer/gate/kernel"
            table.add(f"{theirs}.mlp.shared_expert_gate.weight", gate, HEAD_ROWS)


class DeepseekV3(Mixture):
    file = "deepseek_v3"
    sublayers = (_LATENT, PARALLEL)
    num_positions = ("max_position_embeddings", 4096)
    biases = (False, False)
    num_experts = ("n_routed_experts", 256)
    expert_size = 2048
    normalises = True
    shared_layer = "gated_feed_forward"
    shared_name = "shared_experts"

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.query_latent: int | None = 1536
        if "q_lora_rank" in settings.values:
            self.query_latent = settings.optional_integer("q_lora_rank")
        self.rotated = settings.integer("qk_rope_head_dim", 64)  # entries of a query
        if self.rotated % 2:
            raise settings.error("qk_rope_head_dim", "must be even: pairs rotate")
        self.has_bias = settings.flag("attention_bias", default=False)

    def write_heads(self, file: GinFile) -> None:
        heads = self.settings.integer("num_attention_heads")
        self.settings.require("num_key_value_heads", None, heads)
        still = self.settings.integer("qk_nope_head_dim", 128)
        file.macro("NUM_HEADS", heads)
        file.macro("D_LATENT", self.settings.integer("kv_lora_rank", 512))
        file.macro("D_QUERY_LATENT", self.query_latent)
        file.macro("D_KV", still)
        file.macro("D_ROTARY", self.rotated)
        file.macro("D_V", self.settings.integer("v_head_dim", 128))
        if self.has_bias:
            file.bind(_HEADS, {"use_bias": True})
        factor = Rotary.of(self.settings).logits_factor()
        if factor != 1.0:
            file.bind(_HEADS, {"logits_scale": factor * (self.rotated + still) ** -0.5})

    @property
    def shared_size(self) -> int | None:
        size = self.settings.integer("moe_intermediate_size", 2048)
        return size * self.settings.integer("n_shared_experts", 1)

    def write_feed_forward(self, file: GinFile) -> None:
        super().write_feed_forward(file)
        gate = {
            "scale": self.settings.number("routed_scaling_factor", 2.5),
            "num_groups": self.settings.integer("n_group", 8),
            "groups_per_token": self.settings.integer("topk_group", 4),
        }
        file.bind("moe.TopK", gate)

    @functools.cached_property
    def blocks(self) -> Blocks:
        number = self.settings.count("num_hidden_layers")
        dense = self.settings.non_negative("first_k_dense_replace", 3)
        kinds = [self.feed_forward_class if i < dense else PARALLEL for i in range(number)]
        return Blocks([(_LATENT, kind) for kind in kinds])

    def table(self) -> TensorTable:
        table = super().table()
        # Layers for multi-token prediction.
        table.keep(rf"model\.layers\.{self.settings.count('num_hidden_layers')}\..*")
        return table

    def add_attention(self, table: TensorTable, theirs: str, ours: str) -> None:
        query, has_bias = "q_proj", self.has_bias
        if self.query_latent is not None:
            query = "q_b_proj"
            table.dense(f"{theirs}.q_a_proj", f"{ours}/query_latent", has_bias=has_bias)
            table.add(f"{theirs}.q_a_layernorm.weight", f"{ours}/query_norm/scale")
        rotated_first = Reordered(Matrix(), self.rotated_first)
        table.add(f"{theirs}.{query}.weight", f"{ours}/query", rotated_first)
        latent = f"{theirs}.kv_a_proj_with_mqa"
        table.add(f"{latent}.weight", f"{ours}/memory/kernel", rotated_first)
        if has_bias:
            form = Reordered(SAME, self.rotated_first)
            table.add(f"{latent}.bias", f"{ours}/memory/bias", form)
        table.add(f"{theirs}.kv_a_layernorm.weight", f"{ours}/memory_norm/scale")
        by_head = Joined(Matrix(), self.settings.integer("num_attention_heads"))
        table.add(f"{theirs}.kv_b_proj.weight", [f"{ours}/key", f"{ours}/value"], by_head)
        table.dense(f"{theirs}.o_proj", f"{ours}/output", has_bias=has_bias, inputs=2)

    def rotated_first(self, size: int) -> Sequence[int]:
        """Returns the order that moves rotated entries, which come last there, to the front."""
        rotated = self.rotated
        are_pairs = self.settings.flag("rope_interleave", default=True)
        pairs = halves_of_pairs(rotated, rotated) if are_pairs else range(rotated)
        return (*(size - rotated + i for i in pairs), *range(size - rotated))

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        super().add_feed_forward(table, theirs, ours)
        if "/parallel" in ours:
            bias = f"{theirs}.mlp.gate.e_score_correction_bias"
            table.add(bias, f"{ours}/layers/moe_1d/layer/router/bias")
