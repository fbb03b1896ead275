from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.tools.conversion.mesh_tensorflow.config import SourceConfig

Parameters = dict[str, Any]

_GATES = {
    "top_2": "Top2",
    "top_n": "TopN",
    "switch": "Switch",
    "switch_max": "BatchPrioritized",
    "ntlb": "NoTokenLeftBehind",
    "expert_selection": "ExpertChoice",
}
_UNUSED = "no gate of this configuration reads it"
_DETERMINISTIC = "evaluations draw no numbers: the second expert is used above the threshold"
# Parameters that only some gates read, with their gates.
_READ_BY = {
    "use_second_place_loss": ("top_2",),
    "second_policy_train": ("top_2", "top_n"),
    "second_policy_eval": ("top_2", "top_n"),
    "second_threshold_train": ("top_2", "top_n"),
    "second_threshold_eval": ("top_2", "top_n"),
    "switch_policy_train": ("switch", "switch_max", "ntlb", "expert_selection"),
    "switch_policy_eval": ("switch", "switch_max"),
    "switch_dropout": ("switch", "switch_max", "expert_selection"),
    "switch_temperature": ("switch", "switch_max"),
    "switch_jitter": ("switch", "switch_max", "ntlb", "expert_selection"),
    "ntlb_top_k": ("ntlb",),
    "top_n_num_experts_per_token": ("top_n",),
}


def mixture(
    source: SourceConfig, scope: str, activations: Sequence[Reference | None]
) -> dict[str, Parameters]:
    """Returns the parameters of our classes, by class; `activations` are multiplied."""
    get = source.getter("MoE1D", scope)

    gate = source.require(
        "MoE1D.moe_gating", list(_GATES), f"only {', '.join(_GATES)}", scope=scope
    )
    for name, readers in _READ_BY.items():
        if gate not in readers:
            source.ignore(f"MoE1D.{name}", _UNUSED, scope=scope)
    rules = (
        ("output_dim", None, "the output has the size of the input"),
        ("use_experts_attention", False, "experts of attention are not supported"),
        ("word_embed_mode", None, "routers do not read embeddings"),
        ("use_second_place_expert_prob", None, "routers do not draw second experts"),
    )
    source.require_defaults("MoE1D", rules, scope=scope)
    source.ignore("MoE1D.use_second_place_expert_prob_temp", _UNUSED, scope=scope)
    router, gates = _router(source, scope, gate)
    return {
        "moe.MoE1D": {
            "num_experts": get("num_experts", 16),
            "router": reference("@moe.Router"),
            "experts": reference("@moe.Experts"),
            "capacity": reference("@moe.Capacity()"),
            "loss_coef": get("loss_coef", 1e-2),
        },
        "moe.Experts": {
            "hidden_size": get("hidden_size", 4096),
            "activations": activations,
            "dropout_rate": get("dropout_rate", 0.0),
        },
        "moe.Capacity": {
            "training": get("capacity_factor_train", 1.25),
            "evaluation": get("capacity_factor_eval", 2.0),
            "min_expert_capacity": get("min_expert_capacity", 4),
            "group_size": get("group_size", 1024),
        },
        "moe.Router": router,
        **gates,
    }


def _router(
    source: SourceConfig, scope: str, gate: str
) -> tuple[Parameters, dict[str, Parameters]]:
    get = source.getter("MoE1D", scope)

    cls = f"moe.{_GATES[gate]}"
    parameters: Parameters = {"z_loss": get("z_loss") or 0.0}
    router: Parameters = {"gate": reference(f"@{cls}()")}
    classes: dict[str, Parameters] = {cls: parameters}
    if gate in ("top_2", "top_n"):
        for phase, ours in (("train", "training"), ("eval", "evaluation")):
            policy = _second_policy(source, scope, phase, classes)
            parameters[f"second_policy_{ours}"] = policy
    if gate == "top_2":
        parameters["second_expert_loss"] = get("use_second_place_loss", default=False)
    if gate == "top_n":
        parameters["num_experts"] = get("top_n_num_experts_per_token", 3)
    if gate == "ntlb":
        parameters["top_k"] = get("ntlb_top_k", 4)
    noise = get("switch_policy_train", "input_jitter") if gate in _READ_BY["switch_jitter"] else ""
    if gate in ("switch", "switch_max"):
        _switch_policies(source, scope, noise, parameters, classes)
    if noise == "input_jitter":
        router["input_noise"] = reference("@moe.Jitter()")
        classes["moe.Jitter"] = {"epsilon": get("switch_jitter", 1e-2)}
    elif noise == "input_dropout":
        router["input_noise"] = reference("@moe.InputDropout()")
        classes["moe.InputDropout"] = {"rate": get("switch_dropout", 0.1)}
    for name, reader in (("switch_jitter", "input_jitter"), ("switch_dropout", "input_dropout")):
        if noise != reader:
            source.ignore(f"MoE1D.{name}", _UNUSED, scope=scope)
    return router, classes


def _switch_policies(
    source: SourceConfig,
    scope: str,
    training: str,
    parameters: Parameters,
    classes: dict[str, Parameters],
) -> None:
    source.require(
        "MoE1D.switch_policy_eval",
        ["input_jitter", "argmax", "input_dropout"],
        "evaluations draw no numbers: sample is not supported there",
        scope=scope,
    )
    if training == "sample":
        parameters["policy_training"] = reference("@moe.Sample()")
        temperature = source.get("MoE1D.switch_temperature", 1.0, scope=scope)
        classes["moe.Sample"] = {"temperature": temperature}
        return
    source.ignore("MoE1D.switch_temperature", _UNUSED, scope=scope)
    source.require(
        "MoE1D.switch_policy_train",
        ["input_jitter", "argmax", "input_dropout"],
        "unknown policy",
        scope=scope,
    )


def _second_policy(
    source: SourceConfig, scope: str, phase: str, classes: dict[str, Parameters]
) -> Reference:
    target, threshold = f"MoE1D.second_policy_{phase}", f"MoE1D.second_threshold_{phase}"
    policy = source.require(
        target, ["random", "all", "none", "threshold"], "unknown policy", scope=scope
    )
    if policy in ("all", "none"):
        source.ignore(threshold, _UNUSED, scope=scope)
        return reference("@moe.All()" if policy == "all" else "@moe.Never()")
    if policy == "random" and phase == "eval":
        source.ignore(target, _DETERMINISTIC, scope=scope)
        policy = "threshold"
    cls = "moe.Random" if policy == "random" else "moe.Threshold"
    # Training and evaluation may have different thresholds.
    name = f"{'training' if phase == 'train' else 'evaluation'}/{cls}"
    classes[name] = {"threshold": source.get(threshold, 0.2, scope=scope)}
    return reference(f"@{name}()")
