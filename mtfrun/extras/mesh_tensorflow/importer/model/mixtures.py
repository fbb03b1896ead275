from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig, name_of

# Mesh TensorFlow's activations with the same name in mtfrun.mtf.
_ACTIVATIONS = ("relu", "gelu", "swish", "sigmoid", "tanh", "elu", "softplus")
_GATES = {
    "top_2": "moe.Top2",
    "top_n": "zoo.TopN",
    "switch": "moe.Switch",
    "switch_max": "zoo.BatchPrioritized",
    "ntlb": "zoo.NoTokenLeftBehind",
    "expert_selection": "moe.ExpertChoice",
}
_WITH_INPUT_NOISE = ("switch", "switch_max", "ntlb", "expert_selection")


def read_activations(
    source: SourceConfig, target: str, default: str | None = "relu"
) -> list[Reference | None]:
    """Returns our functions for the multiplied activations; None for the identity."""
    names = source.get(target) if source.has(target) else default
    functions: list[Reference | None] = []
    for entry in (names if isinstance(names, list) else [names]) or ["linear"]:
        name = name_of(entry) if isinstance(entry, Reference) else entry
        if name not in (*_ACTIVATIONS, "linear", None):
            why = f"{name} is not supported, only {', '.join(_ACTIVATIONS)}, linear"
            source.refuse(target, why)
            name = "relu"
        functions.append(None if name in ("linear", None) else reference(f"@mtf.{name}"))
    return functions


class MixtureArguments(NamedTuple):
    """The arguments that the original's class `kind` gives a mixture.

    `others`: arguments of MoE1D that `kind` does not have; `defaults`: its defaults that differ
    from MoE1D's.
    """

    source: SourceConfig
    kind: str = "MoE1D"
    others: Collection[str] = ()
    defaults: Mapping[str, Any] = {}

    def target(self, name: str) -> str:
        return f"{'MoE1D' if name in self.others else self.kind}.{name}"

    def get(self, name: str, default: Any = None) -> Any:
        return self.source.get(self.target(name), self.defaults.get(name, default))

    def require(self, name: str, allowed: Sequence[Any], why: str) -> Any:
        first = self.defaults.get(name, allowed[0])
        return self.source.require(self.target(name), [first, *allowed], why)


def mixture(arguments: MixtureArguments) -> dict[str, Parameters]:
    """Returns the parameters by class."""
    get = arguments.get
    gate = arguments.require("moe_gating", list(_GATES), f"only {', '.join(_GATES)}")
    router, gates = _router(arguments, gate)
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
            "activations": read_activations(arguments.source, arguments.target("activation")),
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


def mixture_of_two_levels(source: SourceConfig) -> dict[str, Parameters]:
    """Returns the parameters by class; both levels have the same gate."""
    arguments = MixtureArguments(source, "MoE2D")
    classes = mixture(arguments)
    parameters = classes.pop("moe.MoE1D")
    sizes = [arguments.get(name, 8) for name in ("expert_x", "expert_y")]
    routers = [parameters.pop("router")] * 2
    classes["moe.Capacity"]["second_level"] = arguments.get("capacity_factor_second_level", 1.0)
    return {"moe.MoE2D": {**parameters, "num_experts": sizes, "routers": routers}, **classes}


def _router(arguments: MixtureArguments, gate: str) -> tuple[Parameters, dict[str, Parameters]]:
    get = arguments.get
    cls = _GATES[gate]
    parameters: Parameters = {"z_loss": get("z_loss") or 0.0}
    router: Parameters = {"gate": reference(f"@{cls}()")}
    classes: dict[str, Parameters] = {cls: parameters}
    if gate in ("top_2", "top_n"):
        for phase, ours in (("train", "training"), ("eval", "evaluation")):
            policy = _second_policy(arguments, phase, classes)
            parameters[f"second_policy_{ours}"] = policy
    if gate == "top_2":
        parameters["second_expert_loss"] = get("use_second_place_loss", default=False)
    if gate == "top_n":
        parameters["num_experts"] = get("top_n_num_experts_per_token", 3)
    if gate == "ntlb":
        parameters["top_k"] = get("ntlb_top_k", 4)
    noise = get("switch_policy_train", "input_jitter") if gate in _WITH_INPUT_NOISE else ""
    if gate in ("switch", "switch_max"):
        policies = ["input_jitter", "argmax", "input_dropout"]
        why = "evaluations draw no numbers: sample is not supported there"
        arguments.require("switch_policy_eval", policies, why)
        if noise == "sample":
            parameters["policy_training"] = reference("@moe.Sample()")
            classes["moe.Sample"] = {"temperature": get("switch_temperature", 1.0)}
        else:
            arguments.require("switch_policy_train", policies, "unknown policy")
    if noise == "input_jitter":
        router["input_noise"] = reference("@moe.Jitter()")
        classes["moe.Jitter"] = {"epsilon": get("switch_jitter", 1e-2)}
    elif noise == "input_dropout":
        router["input_noise"] = reference("@moe.InputDropout()")
        classes["moe.InputDropout"] = {"rate": get("switch_dropout", 0.1)}
    return router, classes


def _second_policy(
    arguments: MixtureArguments, phase: str, classes: dict[str, Parameters]
) -> Reference:
    name, threshold = f"second_policy_{phase}", f"second_threshold_{phase}"
    policy = arguments.require(name, ["random", "all", "none", "threshold"], "unknown policy")
    if policy in ("all", "none"):
        return reference("@moe.All()" if policy == "all" else "@moe.Never()")
    # Evaluations draw no numbers: the second expert is used above the threshold.
    is_random = policy == "random" and phase == "train"
    cls = "moe.Random" if is_random else "moe.Threshold"
    # Training and evaluation may have different thresholds.
    scoped = f"{'training' if phase == 'train' else 'evaluation'}/{cls}"
    classes[scoped] = {"threshold": arguments.get(threshold, 0.2)}
    return reference(f"@{scoped}()")


IN_ATTENTION = "ExpertsSelfAttention"
_BY_EXPERTS = {"qkv": ["query", "key_value"], "q": ["query"], "kv": ["key_value"]}
# Arguments that the class does not pass to MoE1D.
_OTHERS = (
    *("dropout_rate", "use_second_place_loss", "top_n_num_experts_per_token"),
    *(f"second_{x}_{phase}" for x in ("policy", "threshold") for phase in ("train", "eval")),
)
_DEFAULTS = {"moe_gating": "switch", "switch_dropout": 0.0, "hidden_size": 3072}


def experts_attention(source: SourceConfig, heads: Parameters) -> dict[str, Parameters]:
    """Returns the parameters by class, except the relative bias; heads and mixture are scoped."""
    why = (
        "in the original a position attends to itself alone, since its keys have the dimension of "
        "its queries; here it attends to all that it sees, and --partial takes the layer so"
    )
    source.refuse("make_layer_stack.layers", why)
    get = source.getter(IN_ATTENTION)
    if not get("shared_kv", default=False):
        why = "the original has it with equal keys and values only"
        source.refuse(f"{IN_ATTENTION}.shared_kv", why)
    target = f"{IN_ATTENTION}.expert_computation"
    projections = source.require(target, list(_BY_EXPERTS), "unknown projections")
    arguments = MixtureArguments(source, IN_ATTENTION, _OTHERS, _DEFAULTS)
    classes = mixture(arguments)
    del classes["moe.MoE1D"]["experts"]  # the attention says which
    inner = f"{source.scope}_attention_experts".removeprefix("_")
    classes["transformer.AttentionHeads"] = heads
    return {
        "zoo.ExpertsSelfAttention": {
            "heads": reference(f"@{inner}/transformer.AttentionHeads()"),
            "projections": reference("@zoo.ExpertProjections()"),
            "dropout_rate": get("dropout_rate", 0.0),
        },
        "zoo.ExpertProjections": {
            "by_experts": _BY_EXPERTS[projections],
            "mixture": reference(f"@{inner}/moe.MoE1D"),
            "experts": reference(f"@{inner}/moe.Experts"),
        },
        **in_scope(classes, inner),
    }


def heterogeneous_mixture(source: SourceConfig) -> dict[str, Parameters]:
    arguments = MixtureArguments(source, "HeterogeneousMoE1D")
    classes = mixture(arguments)
    experts = classes.pop("moe.Experts")
    num_experts, hidden_size = classes["moe.MoE1D"]["num_experts"], experts.pop("hidden_size")
    info = arguments.get("heterogeneous_mask_info")
    num_layers = arguments.get("moe_num_layers", 1)
    sizes = [(num_experts, hidden_size, num_layers)]
    if info is not None:
        sizes = _sizes(info, num_experts, hidden_size)
    has_dropout = bool(source.get("sublayer_dropout.dropout_rate", 0.0))
    if max(layers for *_, layers in sizes) > 1 and has_dropout:
        why = "there is no dropout between the layers of an expert"
        source.refuse("HeterogeneousMoE1D.moe_num_layers", why)
    classes["moe.MoE1D"]["experts"] = reference("@zoo.HeterogeneousExperts")
    return {**classes, "zoo.HeterogeneousExperts": {"sizes": sizes, **experts}}


def _sizes(
    info: Sequence[Mapping[str, Any]], num_experts: int, hidden_size: int
) -> list[tuple[int, int, int]]:
    """Returns the sizes that the original computes.

    Its variables have the largest "width", and its masks `hidden_size` * "width" units.
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
    """Moves parameters into a scope, and drops the scopes of their references."""
    return {
        f"{scope}/{cls.rpartition('/')[2]}": {
            name: dataclasses.replace(value, scopes=())
            if isinstance(value, Reference) and not value.macro
            else value
            for name, value in arguments.items()
        }
        for cls, arguments in parameters.items()
    }
