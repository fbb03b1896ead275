"""DeepSeek-V3: latent attention, and group-limited routing of experts.

DeepSeek-AI 2024, arXiv:2412.19437.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.qwen2_moe import Mixture
from mtfrun.extras.huggingface.family import PARALLEL, Blocks
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Joined,
    Matrix,
    Row,
    Same,
    TensorTable,
    dense_rows,
    halves_of_pairs,
)

_LATENT, _HEADS = "huggingface.LatentSelfAttention", "huggingface.LatentHeads"


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
