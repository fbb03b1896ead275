from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import MixtureArguments, mixture

Parameters = dict[str, Any]

IN_ATTENTION = "ExpertsSelfAttention"
_BY_EXPERTS = {"qkv": ["query", "key_value"], "q": ["query"], "kv": ["key_value"]}
# What the class passes on to MoE1D.
_ARGUMENTS = (
    *("moe_gating", "num_experts", "loss_coef", "group_size", "min_expert_capacity"),
    *("capacity_factor_train", "capacity_factor_eval", "switch_policy_train"),
    *("switch_policy_eval", "switch_dropout", "switch_temperature", "switch_jitter"),
    *("ntlb_top_k", "hidden_size", "activation", "z_loss"),
)
_DEFAULTS = {"moe_gating": "switch", "switch_dropout": 0.0, "hidden_size": 3072}


def experts_attention(
    source: SourceConfig, scope: str, activations: Sequence[Reference | None], heads: Parameters
) -> dict[str, Parameters]:
    """Returns the parameters of our classes, by class, but for the logits by distance.

    The heads and the mixture are in a scope, since other layers may have others.
    """
    why = (
        "in the original a position attends to itself alone, since its keys have the dimension of "
        "its queries; here it attends to all that it sees, and --partial takes the layer so"
    )
    source.refuse("make_layer_stack.layers", why, scope=scope)
    # It inherits unbound parameters from its base class.
    rate, shared = 0.0, False
    for kind in ("SelfAttention", IN_ATTENTION):
        rate = source.get(f"{kind}.dropout_rate", rate, scope=scope)
        shared = source.get(f"{kind}.shared_kv", shared, scope=scope)
    if not shared:
        why = "the original has it with equal keys and values only"
        source.refuse(f"{IN_ATTENTION}.shared_kv", why, scope=scope)
    target = f"{IN_ATTENTION}.expert_computation"
    projections = source.require(target, list(_BY_EXPERTS), "unknown projections", scope=scope)
    arguments = MixtureArguments(source, scope, IN_ATTENTION, _ARGUMENTS, _DEFAULTS)
    classes = mixture(arguments, activations)
    del classes["moe.MoE1D"]["experts"]  # the attention says which
    inner = f"{scope}_attention_experts".removeprefix("_")
    classes["transformer.AttentionHeads"] = heads
    return {
        "zoo.ExpertsSelfAttention": {
            "heads": reference(f"@{inner}/transformer.AttentionHeads()"),
            "projections": reference("@zoo.ExpertProjections()"),
            "dropout_rate": rate,
        },
        "zoo.ExpertProjections": {
            "by_experts": _BY_EXPERTS[projections],
            "mixture": reference(f"@{inner}/moe.MoE1D"),
            "experts": reference(f"@{inner}/moe.Experts"),
        },
        **in_scope(classes, inner),
    }


def heterogeneous_mixture(
    source: SourceConfig, scope: str, activations: Sequence[Reference | None]
) -> dict[str, Parameters]:
    """Returns the parameters of our classes, by class."""
    arguments = MixtureArguments(source, scope, "HeterogeneousMoE1D")
    classes = mixture(arguments, activations)
    experts = classes.pop("moe.Experts")
    num_experts, hidden_size = classes["moe.MoE1D"]["num_experts"], experts.pop("hidden_size")
    info = arguments.get("heterogeneous_mask_info")
    num_layers = arguments.get("moe_num_layers", 1)
    sizes = [(num_experts, hidden_size, num_layers)]
    if info is not None:
        sizes = _sizes(info, num_experts, hidden_size)
    if max(layers for *_, layers in sizes) > 1 and _has_dropout(source, scope):
        why = "there is no dropout between the layers of an expert"
        source.refuse("HeterogeneousMoE1D.moe_num_layers", why, scope=scope)
    classes["moe.MoE1D"]["experts"] = reference("@zoo.HeterogeneousExperts")
    return {**classes, "zoo.HeterogeneousExperts": {"sizes": sizes, **experts}}


def _has_dropout(source: SourceConfig, scope: str) -> bool:
    return bool(source.get("sublayer_dropout.dropout_rate", 0.0, scope=scope))


def _sizes(
    info: Sequence[Mapping[str, Any]], num_experts: int, hidden_size: int
) -> list[tuple[int, int, int]]:
    """Returns the sizes that the original computes.

    Its variables have the largest "width" as their hidden size, and masks `hidden_size` times as
    many units as "width" says: these are the experts' sizes where `hidden_size` is 1.
    """
    largest = max(group["width"] for group in info)
    sizes = []
    remaining = num_experts
    for i, group in enumerate(info):
        share = group["percent_number"]
        number = int(num_experts * share if share < 1.0 else share)
        number = remaining if i == len(info) - 1 else number
        remaining -= number
        sizes.append((number, min(group["width"] * hidden_size, largest), group["layers"]))
    return sizes


def in_scope(parameters: Mapping[str, Parameters], scope: str) -> dict[str, Parameters]:
    """Returns parameters that hold in a scope alone: references in it need no other ones."""
    return {
        f"{scope}/{cls.rpartition('/')[2]}": {
            name: dataclasses.replace(value, scopes=())
            if isinstance(value, Reference) and not value.macro
            else value
            for name, value in of_class.items()
        }
        for cls, of_class in parameters.items()
    }
