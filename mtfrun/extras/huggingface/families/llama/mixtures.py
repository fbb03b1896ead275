"""Llama with mixtures of experts: Mixtral, Qwen2, Qwen3, OLMoE, DeepSeek-V3; no tokens are dropped.

Jiang et al. 2024, arXiv:2401.04088; Yang et al. 2024, arXiv:2407.10671, and 2025, arXiv:2505.09388;
Muennighoff et al. 2024, arXiv:2409.02060; DeepSeek-AI 2024, arXiv:2412.19437.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Llama, Mistral, Qwen2, Qwen3
from mtfrun.extras.huggingface.family import (
    GATED,
    GLOBAL,
    LOCAL,
    MIXTURE,
    PARALLEL,
    Blocks,
    used_window,
    windows_by_rule,
)
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    HeadRows,
    Joined,
    Matrix,
    Permuted,
    Row,
    Same,
    Stacked,
    TensorTable,
    dense_rows,
    feed_forward_rows,
    halves_of_pairs,
)

_LATENT, _HEADS = "huggingface.LatentSelfAttention", "huggingface.LatentHeads"


class Mixture(Llama):
    """Llama with mixtures, in `sublayers`, in the place of some feed-forward layers.

    `num_experts`, a setting, to `normalises` are defaults: `choices` experts of a token, of
    `expert_size` or else as large as a feed-forward layer. `shared_layer` is the expert for all
    tokens in a `Parallel`, and `shared_name` its module.
    """

    sublayers = (GLOBAL, MIXTURE)
    num_experts: ClassVar[tuple[str, int]] = ("num_experts", 64)
    choices: ClassVar[int] = 8
    expert_size: ClassVar[int | None] = None
    normalises: ClassVar[bool | None] = False
    shared_layer: ClassVar[str]
    shared_name: ClassVar[str]
    mixture_name: ClassVar[str] = "mlp"
    expert_maps: ClassVar[Sequence[str]] = ("gate_proj", "up_proj", "down_proj")

    def number_of_experts(self, settings: Settings) -> int:
        name, default = self.num_experts
        name = "num_local_experts" if "num_local_experts" in settings.values else name
        return settings.count(name, default)

    def shared_size(self, settings: Settings) -> int | None:
        """Returns the size of the expert for all tokens."""
        return None

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        if self.expert_size is not None:
            super().write_feed_forward(settings, file)
            file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", self.expert_size))
        shared = self.shared_size(settings)
        if shared is not None:
            file.macro("SHARED_D_FF", shared)
        choices = settings.integer("num_experts_per_tok", self.choices)
        file.macro("NUM_EXPERTS", self.number_of_experts(settings))
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

    def blocks(self, settings: Settings) -> Blocks:
        """Returns blocks with the mixture of `sublayers` or a gated feed-forward layer."""
        if self.feed_forward_class == MIXTURE:
            return super().blocks(settings)
        windows, step = self.windows(settings), settings.integer("decoder_sparse_step", 1)
        dense = settings.values.get("mlp_only_layers") or []
        if not isinstance(dense, list):
            raise settings.error("mlp_only_layers", "must be a list of layers")
        have_experts = [i not in dense and (i + 1) % step == 0 for i in range(len(windows))]
        layers, mixture = zip(windows, have_experts, strict=True), self.sublayers[1]
        return Blocks([(LOCAL if x else GLOBAL, mixture if y else GATED) for x, y in layers])

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        if "/parallel" in ours:
            modules = [f"{theirs}.mlp.{self.shared_name}.{name}" for name in self.expert_maps]
            shared = f"{ours}/layers/{self.shared_layer}/layer"
            has_bias = settings.is_set(self.map_biases)
            yield from feed_forward_rows(modules, shared, is_gated=True, has_bias=has_bias)
            ours = f"{ours}/layers/moe_1d/layer"
        elif "/moe_1d" not in ours:
            yield from super().feed_forward(settings, theirs, ours)
            return
        # Version 5 has another name for the form with all experts in one tensor.
        is_fused = f"{theirs}.mlp.experts.down_proj" in settings.tensors
        mixture = f"{theirs}.{'mlp' if is_fused else self.mixture_name}"
        paths = [f"{ours}/experts/{x}/kernel" for x in ("wi/factors/0", "wi/factors/1", "wo")]
        yield Row(f"{mixture}.gate.weight", f"{ours}/router/kernel", Matrix())
        if is_fused:
            fused = Joined(Permuted((0, 2, 1)), axis=1)
            yield Row(f"{mixture}.experts.gate_up_proj", paths[:2], fused)
            yield Row(f"{mixture}.experts.down_proj", paths[2], fused)
            return
        numbers = range(self.number_of_experts(settings))
        for name, path in zip(self.expert_maps, paths, strict=True):
            tensors = [f"{mixture}.experts.{i}.{name}.weight" for i in numbers]
            yield Row(tensors, path, Stacked(Matrix()))


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

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        noise = settings.number("router_jitter_noise", 0.0)
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

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        settings.require("clip_qkv", None)
        super().write_feed_forward(settings, file)


class Qwen3Moe(Mixture, Qwen3):
    """Mixtures in all or some layers."""

    file = "qwen3_moe"
    head_size = None
    num_experts = ("num_experts", 128)
    expert_size = 768

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return [used_window(settings)] * settings.count("num_hidden_layers")


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

    def shared_size(self, settings: Settings) -> int | None:
        return settings.integer("shared_expert_intermediate_size", 5632)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        function = settings.activation(*self.activation)
        if str(function) != "@mtf.swish":
            file.bind("moe.SharedExpert", {"activation": function})

    def windows(self, settings: Settings) -> Sequence[int | None]:
        def has_window(layer: int) -> bool:
            return layer % 2 == 0 and layer < settings.non_negative("max_window_layers", 28)

        return windows_by_rule(settings, used_window(settings), has_window)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().feed_forward(settings, theirs, ours)
        if "/parallel" in ours:
            gate = f"{ours}/layers/shared_expert/layer/gate/kernel"
            yield Row(f"{theirs}.mlp.shared_expert_gate.weight", gate, HeadRows())


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

    def write_heads(self, settings: Settings, file: GinFile) -> None:
        heads = settings.integer("num_attention_heads")
        settings.require("num_key_value_heads", None, heads)
        rotated, still = _sizes(settings)
        file.macro("NUM_HEADS", heads)
        file.macro("D_LATENT", settings.integer("kv_lora_rank", 512))
        file.macro("D_QUERY_LATENT", _query_latent(settings))
        file.macro("D_KV", still)
        file.macro("D_ROTARY", rotated)
        file.macro("D_V", settings.integer("v_head_dim", 128))
        if settings.flag("attention_bias", default=False):
            file.bind(_HEADS, {"use_bias": True})
        factor = Rotary.of(settings).logits_factor()
        if factor != 1.0:
            file.bind(_HEADS, {"logits_scale": factor * (rotated + still) ** -0.5})

    def shared_size(self, settings: Settings) -> int | None:
        size = settings.integer("moe_intermediate_size", 2048)
        return size * settings.integer("n_shared_experts", 1)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        gate = {
            "scale": settings.number("routed_scaling_factor", 2.5),
            "num_groups": settings.integer("n_group", 8),
            "groups_per_token": settings.integer("topk_group", 4),
        }
        file.bind("moe.TopK", gate)

    def blocks(self, settings: Settings) -> Blocks:
        number = settings.count("num_hidden_layers")
        dense = settings.non_negative("first_k_dense_replace", 3)
        kinds = [self.feed_forward_class if i < dense else PARALLEL for i in range(number)]
        return Blocks([(_LATENT, kind) for kind in kinds])

    def table(self, settings: Settings) -> TensorTable:
        table = super().table(settings)
        # Layers for multi-token prediction.
        more = rf"model\.layers\.{settings.count('num_hidden_layers')}\..*"
        return TensorTable(table.rows, [*table.kept, more])

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        has_bias = settings.flag("attention_bias", default=False)
        query, order = "q_proj", _rotating_first(settings)
        if _query_latent(settings) is not None:
            query = "q_b_proj"
            yield from dense_rows(f"{theirs}.q_a_proj", f"{ours}/query_latent", has_bias=has_bias)
            yield Row(f"{theirs}.q_a_layernorm.weight", f"{ours}/query_norm/scale", Same())
        query_row = Row(f"{theirs}.{query}.weight", f"{ours}/query", Matrix())
        yield query_row.in_order(order)
        for row in dense_rows(f"{theirs}.kv_a_proj_with_mqa", f"{ours}/memory", has_bias=has_bias):
            yield row.in_order(order)
        yield Row(f"{theirs}.kv_a_layernorm.weight", f"{ours}/memory_norm/scale", Same())
        by_head = Joined(Matrix(), settings.integer("num_attention_heads"))
        yield Row(f"{theirs}.kv_b_proj.weight", [f"{ours}/key", f"{ours}/value"], by_head)
        yield from dense_rows(
            f"{theirs}.o_proj", f"{ours}/output", has_bias=has_bias, kernel=Matrix(2)
        )

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield from super().feed_forward(settings, theirs, ours)
        if "/parallel" in ours:
            bias = f"{theirs}.mlp.gate.e_score_correction_bias"
            yield Row(bias, f"{ours}/layers/moe_1d/layer/router/bias", Same())


def _sizes(settings: Settings) -> tuple[int, int]:
    """Returns the numbers of rotated and of other entries of a query."""
    rotated = settings.integer("qk_rope_head_dim", 64)
    if rotated % 2:
        raise settings.error("qk_rope_head_dim", "must be even: pairs rotate")
    return rotated, settings.integer("qk_nope_head_dim", 128)


def _rotating_first(settings: Settings) -> Callable[[int], Sequence[int]]:
    """Returns the order that moves rotated entries, which come last there, to the front."""
    rotated, _ = _sizes(settings)
    are_pairs = settings.flag("rope_interleave", default=True)

    def order(size: int) -> Sequence[int]:
        still = size - rotated
        pairs = halves_of_pairs(rotated, rotated) if are_pairs else range(rotated)
        return (*(still + i for i in pairs), *range(still))

    return order


def _query_latent(settings: Settings) -> int | None:
    if "q_lora_rank" not in settings.values:
        return 1536
    return settings.optional_integer("q_lora_rank")
