from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig, name_of
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack, read_layers

_TRANSFORMS = {
    "sublayer_rms_norm": ("RMSNorm",),
    "sublayer_legacy_rms_norm": ("RMSNorm",),
    "sublayer_legacy_final_rms_norm": ("RMSNorm",),
    "sublayer_true_layer_norm": ("LayerNorm",),
    "sublayer_dropout": ("SublayerDropout",),
    "sublayer_legacy_dropout": ("SublayerDropout",),
    "sublayer_residual": ("Residual",),
    "sublayer_mask_padding": ("MaskPadding",),
    # It sets padding to 0 itself.
    "sublayer_call_layer": ("MaskPadding", "CallLayer"),
}
_FUNNEL = "FunnelTransformerLayerStack"
# Our names of the original's lists, and their legacy defaults.
_LISTS = {
    "initial": ("initial", ["SublayerDropout"]),
    "per_layer": ("layer", ["RMSNorm", "MaskPadding", "CallLayer", "SublayerDropout", "Residual"]),
    "final": ("final", ["RMSNorm", "SublayerDropout"]),
}


def read_stack(source: SourceConfig, name: str) -> SourceStack:
    num_layers = source.get("make_layer_stack.num_layers", 6)
    block_scope = source.get("make_layer_stack.block_scope", default=True)
    stack = SourceStack(name, source.scope, num_layers, block_scope)
    read_layers(source, stack)
    _KINDS[source.choose("make_layer_stack.layer_stack_cls", _KINDS)](source, stack)
    if stack.relative_bias is not None:
        bias = stack.parameters.setdefault("transformer.RelativePositionBias", {})
        bias.update(stack.relative_bias)
    return stack


def _layer_stack(source: SourceConfig, stack: SourceStack) -> None:
    _add_transforms(source, stack, "LayerStack")
    recomputes = source.get("LayerStack.recompute_grads", default=False)
    stack.parameters["transformer.Stack"] = {"rematerialise": recomputes}


def _reversible(source: SourceConfig, stack: SourceStack) -> None:
    kind = "ReversibleLayerStack"
    _add_transforms(source, stack, kind)
    transforms = stack.parameters["transformer.StackTransforms"]["layer"]
    if reference("@transformer.Residual") in transforms:
        why = "with a residual every sublayer adds both streams: not supported"
        source.refuse(f"{kind}.sublayers_per_layer", why)
    _name_class(source, stack, "zoo.ReversibleStack")


def _universal(source: SourceConfig, stack: SourceStack) -> None:
    kind = "UTLayerStack"
    get = source.getter(kind)
    why = "highway networks and gates, with unshared variables in the original, are not supported"
    recurrence = source.require(f"{kind}.recurrence_type", ["basic", "act"], why)
    steps = get("act_max_steps" if recurrence == "act" else "num_rec_steps", 6)
    signals = None
    if get("add_step_timing_signal", default=False):
        why = "the original has no other signals of steps than learned ones"
        source.require(f"{kind}.step_timing_signal_type", ["learned"], why)
        signals = reference("@zoo.StepSignals")
        stack.parameters["zoo.StepSignals"] = {
            "steps": "trained",
            "positions": False,
            "num_trained": steps,
        }
    halting = None
    if recurrence == "act":
        halting = reference("@zoo.Halting")
        why = "only position-wise halting is supported: basic and accumulated"
        combination = source.require(f"{kind}.act_type", ["basic", "accumulated"], why)
        stack.parameters["zoo.Halting"] = {
            "epsilon": get("act_epsilon", 0.01),
            "combination": "interpolated" if combination == "basic" else combination,
            "loss_weight": 0.0,
        }
        # The original computes one step more.
        steps += 1
    _name_class(source, stack, "zoo.UniversalStack")
    parameters = {"num_steps": steps, "signals": signals, "halting": halting}
    stack.parameters["zoo.Recurrence"] = parameters
    # UTLayerStack ignores LayerStack's transforms.
    layer = ["MaskPadding", "LayerNorm", "CallLayer", "SublayerDropout", "Residual"]
    final = ["LayerNorm", "SublayerDropout", "MaskPadding"]
    _bind_transforms(stack, {"initial": ["SublayerDropout"], "layer": layer, "final": final})
    stack.parameters["transformer.SublayerDropout"] = {"rate": get("dropout_rate", 0.0)}
    stack.parameters["transformer.LayerNorm"] = {"epsilon": get("norm_epsilon", 1e-6)}


def _funnel(source: SourceConfig, stack: SourceStack) -> None:
    get = source.getter(_FUNNEL)
    if not source.is_encoder:
        why = f"{_FUNNEL} is for encoders: a decoder's positions would see later ones"
        source.refuse("make_layer_stack.layer_stack_cls", why)
    sizes = [int(size) for size in get("block_param_size", [])]
    repeats = list(get("block_repeat_size", []))
    number = len(stack.layers)
    if sum(sizes) != stack.num_layers or get("n_blocks", 0) != len(sizes) or number != 2:
        why = "the blocks of all parts are make_layer_stack.num_layers, each of two layers"
        source.refuse(f"{_FUNNEL}.block_param_size", why)
    if repeats != [1] * len(sizes):
        why = "the original has no layers for repeated blocks, and stops with an error"
        source.refuse(f"{_FUNNEL}.block_repeat_size", why)
    kind = source.require(f"{_FUNNEL}.pooling_type", ["mean", "max", "min"], "unknown kind")
    _add_transforms(source, stack, _FUNNEL)
    _name_class(source, stack, "zoo.FunnelStack")
    stack.parameters["zoo.Funnel"] = {
        "num_layers": sizes,
        "pool_size": get("pooling_size", 2),
        "kind": kind,
        "across_documents": True,
    }


def _name_class(source: SourceConfig, stack: SourceStack, cls: str) -> None:
    if stack.cls != "transformer.Stack":
        why = f"{stack.cls} and {cls} in one stack: not supported"
        source.refuse("make_layer_stack.layer_stack_cls", why)
    stack.parameters[cls] = {}


_KINDS: dict[str, Callable[[SourceConfig, SourceStack], None]] = {
    "LayerStack": _layer_stack,
    "ReversibleLayerStack": _reversible,
    "UTLayerStack": _universal,
    _FUNNEL: _funnel,
}


def _add_transforms(source: SourceConfig, stack: SourceStack, kind: str) -> None:
    rate = source.get(f"{kind}.dropout_rate", None)
    is_legacy = rate is not None
    lists: dict[str, list[str]] = {}
    for name, (ours, legacy) in _LISTS.items():
        if is_legacy:
            lists[ours] = list(legacy)
            continue
        target = f"{kind}.sublayers_{name}"
        entries = source.get_optional(target, []) or []
        names = [name_of(entry) for entry in entries if isinstance(entry, Reference)]
        unknown = [n for n in names if n not in _TRANSFORMS]
        if unknown:
            why = f"{unknown[0]} is not supported, only {', '.join(_TRANSFORMS)}"
            source.refuse(target, why)
        lists[ours] = [x for n in names for x in _TRANSFORMS.get(n, ())]
    if stack.has_encoder and kind in ("LayerStack", _FUNNEL):
        lists["final"].append("MaskPadding")
    _bind_transforms(stack, lists)
    if not is_legacy:
        rate = source.get("sublayer_dropout.dropout_rate", 0.0)
    stack.parameters["transformer.SublayerDropout"] = {"rate": rate}
    used = {x for ours in lists.values() for x in ours}
    for cls, name in (("RMSNorm", "sublayer_rms_norm"), ("LayerNorm", "sublayer_true_layer_norm")):
        if cls in used:
            epsilon = source.get(f"{name}.epsilon", 1e-6)
            stack.parameters[f"transformer.{cls}"] = {"epsilon": epsilon}


def _bind_transforms(stack: SourceStack, lists: Mapping[str, Sequence[str]]) -> None:
    """The original masks no padding in language models."""
    stack.parameters["transformer.StackTransforms"] = {
        name: [
            reference(f"@transformer.{x}") for x in ours if stack.has_encoder or x != "MaskPadding"
        ]
        for name, ours in lists.items()
    }
