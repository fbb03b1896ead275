from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.published import load_published
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig, name_of, short_name
from mtfrun.extras.mesh_tensorflow.importer.model.attention import attention, encoder_attention
from mtfrun.extras.mesh_tensorflow.importer.model.convolutions import (
    CONVOLUTIONS,
    EVOLVED,
    convolution,
    evolved_layer,
)
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import (
    IN_ATTENTION,
    MixtureArguments,
    experts_attention,
    heterogeneous_mixture,
    in_scope,
    mixture,
    mixture_of_two_levels,
)
from mtfrun.models.transformer.residual_transforms import distinct_names

Parameters = dict[str, Any]
# The name of our class, and the parameters of classes by name.
_Layer = tuple[str, dict[str, Parameters]]

_STACK_CLASSES = (
    *("zoo.TransparentEncoder", "zoo.TransparentDecoder"),
    *("zoo.ReversibleStack", "zoo.UniversalStack", "zoo.FunnelStack"),
    *("parity.TiedBiasStack", "parity.SharedLayersStack"),
)
ACTIVATIONS = ("relu", "gelu", "swish", "sigmoid", "tanh", "elu", "softplus")
"""Functions of Mesh TensorFlow that have the same name in mtfrun.mtf."""


@dataclasses.dataclass
class SourceStack:
    """A stack in our terms.

    `name` and `names` (of a block's layers) are in variables of the original, with a part for the
    block if `block_scope`. The padding of encoder-decoders (`has_encoder`) is set to 0. `scope` is
    "encoder", "decoder" or "". `parameters` are of our classes, by class and name, with a scope
    where a layer has arguments. `relative_bias` is for a RelativePositionBias that all blocks
    share; None without one.
    """

    name: str
    scope: str
    has_encoder: bool
    num_layers: int = 6
    layers: list[Reference] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    block_scope: bool = True
    parameters: dict[str, Parameters] = dataclasses.field(default_factory=dict)
    relative_bias: Parameters | None = None

    @property
    def cls(self) -> str:
        """Our class, which is among the parameters if it is not the usual one."""
        return next((cls for cls in _STACK_CLASSES if cls in self.parameters), "transformer.Stack")

    def add(self, source: SourceConfig, parameters: Mapping[str, Parameters]) -> None:
        """Adds parameters of a layer, in which no layer without a scope may differ."""
        for cls, of_class in parameters.items():
            known = self.parameters.setdefault(cls, {})
            for parameter, value in of_class.items():
                if known.setdefault(parameter, value) != value:
                    why = f"layers of a block differ in {cls}.{parameter}: not supported"
                    source.refuse("make_layer_stack.layers", why, scope=self.scope)

    @property
    def path(self) -> str:
        """Ours, without a slash at its end."""
        return "encoder_stack" if self.scope == "encoder" else "decoder_stack"

    @property
    def sublayers(self) -> list[str]:
        """The names of a block's layers in our paths."""
        return distinct_names([load_published()[layer.selector] for layer in self.layers])


def sublayer_paths(stack: SourceStack) -> list[str]:
    return [
        f"{stack.path}/blocks/{block}/{name}/"
        for block in range(stack.num_layers)
        for name in stack.sublayers
    ]


@dataclasses.dataclass
class SourceLayer:
    """A layer of a block; `scope` is ours, for its parameters alone, "" for none.

    `part` has what the layer adds to a stack; its scope is where the original looks for values.
    """

    name: str
    scope: str
    part: SourceStack
    cls: str = ""
    parameters: dict[str, Parameters] = dataclasses.field(default_factory=dict)


def read_layer(
    source: SourceConfig, stack: SourceStack, entry: Any, name: str
) -> SourceLayer | None:
    """Reads a class, or a list of a name, arguments and a class, in any order."""
    parts = list(entry) if isinstance(entry, list | tuple) else [entry]
    references = [part for part in parts if isinstance(part, Reference)]
    names = [part for part in parts if isinstance(part, str)]
    arguments = {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
    target, scope = "make_layer_stack.layers", stack.scope
    if len(references) != 1:
        source.refuse(target, f"an entry has {len(references)} classes", scope=scope)
        return None
    kind = short_name(references[0].selector)
    if kind in _WRONG:
        source.refuse(target, _WRONG[kind], scope=scope)
        return None
    if kind not in _LAYERS:
        supported = ", ".join(_LAYERS)
        source.refuse(target, f"{kind} is not supported, only {supported}", scope=scope)
        return None
    name = names[0] if names else name
    # The scope of a reference takes the place of all others.
    scopes = references[0].scopes
    where = "/".join(scopes) if scopes else scope
    own = [*scopes, *(f"{key}_{value}" for key, value in arguments.items())]
    layer = SourceLayer(name, "", SourceStack(stack.name, where, stack.has_encoder))
    if own:
        layer.scope = re.sub(r"\W+", "_", "_".join([*[scope] * bool(scope), *own])).strip("_")
    if own and kind in _WITHOUT_SCOPE:
        why = f"{kind} with arguments or a scope is not supported"
        source.refuse(target, why, scope=scope)
        return None
    if arguments:
        layer.part.scope = f"{where}/{layer.scope}" if where else layer.scope
    for argument, value in arguments.items():
        source.bind(layer.part.scope, f"{kind}.{argument}", value)
    layer.cls, layer.parameters = _LAYERS[kind](source, layer.part)
    for argument in arguments:
        if not source.has_read(layer.part.scope, f"{kind}.{argument}"):
            source.refuse(target, f"{kind} has no argument {argument}", scope=scope)
    return layer


def add_layers(source: SourceConfig, stack: SourceStack, layers: list[SourceLayer]) -> None:
    biases = [layer.part.relative_bias for layer in layers if layer.part.relative_bias is not None]
    if biases and all(bias == biases[0] for bias in biases):
        stack.relative_bias = biases[0]
    elif biases:
        stack.parameters["parity.TiedBiasStack"] = {}
    for layer in layers:
        bias = layer.part.relative_bias
        if bias is not None and stack.relative_bias is None:
            _add_own_bias(layer.cls, layer.parameters, bias)
        stack.names.append(layer.name)
        scopes = (layer.scope,) if layer.scope else ()
        stack.layers.append(Reference(scopes, layer.cls, called=False))
        stack.add(source, layer.part.parameters)
        of_layer = layer.parameters
        stack.add(source, in_scope(of_layer, layer.scope) if layer.scope else of_layer)


def _feed_forward(source: SourceConfig, stack: SourceStack) -> _Layer:
    scope = stack.scope
    target = "DenseReluDense.activation"
    parameters: Parameters = {
        "d_ff": source.get("DenseReluDense.hidden_size", 4096, scope=scope),
        "dropout_rate": source.get("DenseReluDense.dropout_rate", 0.0, scope=scope),
    }
    names = activations(source, target, scope)
    is_gated = len(names) == 2 and names[1] in ("linear", None)
    if len(names) != 1 and not is_gated:
        source.refuse(target, "a product of two with the second linear is supported", scope=scope)
    parameters["activation"] = activation(source, target, names[0], scope)
    if is_gated:
        rule = ("use_bias", False, "gated layers have none")
        source.require_defaults("DenseReluDense", [rule], scope=scope)
        return "transformer.GatedFeedForward", {"transformer.GatedFeedForward": parameters}
    parameters["use_bias"] = source.get("DenseReluDense.use_bias", default=False, scope=scope)
    return "transformer.FeedForward", {"transformer.FeedForward": parameters}


def activations(source: SourceConfig, target: str, scope: str) -> list[Any]:
    """Returns the names of the activations that are multiplied; by default ["relu"]."""
    names = source.get(target, scope=scope) if source.has(target, scope=scope) else "relu"
    return (names if isinstance(names, list) else [names]) or ["linear"]


def activation(source: SourceConfig, target: str, name: Any, scope: str) -> Reference | None:
    if isinstance(name, Reference):
        name = name_of(name)
    if name in (None, "linear"):
        return None
    if name not in ACTIVATIONS:
        why = f"{name} is not supported, only {', '.join(ACTIVATIONS)}, linear"
        source.refuse(target, why, scope=scope)
        name = "relu"
    return reference(f"@mtf.{name}")


def _self_attention(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "transformer.SelfAttention"
    parameters = attention(source, "SelfAttention", cls, stack.scope)
    num_heads = parameters["transformer.AttentionHeads"]["num_heads"]
    _add_relative_bias(source, stack, "SelfAttention", num_heads, cls, parameters)
    why = "prompts that are learned are not supported"
    lengths = ("hyperprompt_length_encoder", "hyperprompt_length_decoder")
    source.require_defaults("SelfAttention", [(n, None, why) for n in lengths], scope=stack.scope)
    return cls, parameters


def _add_relative_bias(
    source: SourceConfig,
    stack: SourceStack,
    theirs: str,
    num_heads: int,
    cls: str,
    parameters: dict[str, Parameters],
) -> None:
    """Adds the logits by distance of a class `theirs` to the `parameters` of ours, or the stack."""
    kind = source.require(
        f"{theirs}.relative_attention_type",
        [None, "bias", "bias_shared"],
        "only logits by distance are supported: bias and bias_shared",
        scope=stack.scope,
    )
    buckets = source.get(f"{theirs}.relative_attention_num_buckets", 32, scope=stack.scope)
    bias = {"num_heads": num_heads, "num_buckets": buckets}
    if kind == "bias_shared":
        stack.relative_bias = bias
    if kind == "bias":
        _add_own_bias(cls, parameters, bias)


def _add_own_bias(cls: str, parameters: dict[str, Parameters], bias: Parameters) -> None:
    parameters[cls]["relative_bias"] = reference("@transformer.RelativePositionBias")
    parameters["transformer.RelativePositionBias"] = bias


def _talking_heads(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "zoo.TalkingHeadsSelfAttention"
    parameters, num_heads = _talking(source, ["TalkingHeadsSelfAttention"], cls, stack.scope)
    theirs = "TalkingHeadsSelfAttention"
    _add_relative_bias(source, stack, theirs, num_heads, cls, parameters)
    return cls, parameters


def _talking_heads_to_encoder(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls, heads = "zoo.TalkingHeadsEncoderDecoderAttention", "zoo.TalkingHeads"
    theirs = "TalkingHeadsEncDecAttention"
    rule = ("relative_attention_type", None, "logits by distance to inputs are not supported")
    source.require_defaults(theirs, [rule], scope=stack.scope)
    # It inherits unbound parameters from its base class.
    base = "TalkingHeadsSelfAttention"
    parameters, _ = _talking(source, [base, theirs], cls, stack.scope)
    of_decoder, _ = _talking(source, [base], cls, stack.scope)
    if parameters[heads] != of_decoder[heads]:
        scoped = f"encoder_attention/{heads}"
        parameters[scoped] = parameters.pop(heads)
        parameters[cls]["heads"] = reference(f"@{scoped}()")
    return cls, parameters


_TALKING_DIMS = {
    "key_heads": "key_heads_dims",
    "softmax_heads": "softmax_heads_dims",
    "value_heads": "value_heads_dims",
}
_DYNAMIC_SIDES = {"x": "query", "m": "memory"}


def _talking(
    source: SourceConfig, kinds: list[str], cls: str, scope: str
) -> tuple[dict[str, Parameters], int]:
    """Returns the parameters of our classes, and the number of heads of the softmax."""

    def get(name: str, default: Any) -> Any:
        for kind in kinds:
            default = source.get(f"{kind}.{name}", default, scope=scope)
        return default

    usual = [("heads", 12)]
    dims = {name: get(theirs, usual) for name, theirs in _TALKING_DIMS.items()}
    sizes = {name: dict(value) for name, value in dims.items()}
    heads: Parameters = {**dims, "d_k": get("key_size", 64), "d_v": get("value_size", 64)}
    dynamic = get("dynamic_projections", None) or []
    for ours, end, side in (("logits", "l", "key_heads"), ("weights", "w", "value_heads")):
        named = [_DYNAMIC_SIDES[each[0]] for each in dynamic if each.endswith(f"2{end}")]
        # Between equal heads there is no projection, dynamic or not.
        heads[f"dynamic_{ours}"] = named if sizes[side] != sizes["softmax_heads"] else []
    heads["dynamic_scale"] = get("dynamic_projections_init_scale", 1e-2)
    parameters: dict[str, Parameters] = {
        "zoo.TalkingHeads": heads,
        cls: {"heads": reference("@zoo.TalkingHeads()"), "dropout_rate": get("dropout_rate", 0.0)},
    }
    return parameters, math.prod(sizes["softmax_heads"].values())


def _local_self_attention(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "transformer.LocalSelfAttention"
    if stack.scope == "encoder":
        why = "in an encoder it sees one position less before than after: not supported"
        source.refuse("make_layer_stack.layers", why, scope=stack.scope)
    parameters = attention(source, "LocalSelfAttention", cls, stack.scope)
    # The shipped files bind the usual class alone.
    parameters[cls]["heads"] = reference("@transformer.AttentionHeads()")
    parameters[cls]["window"] = source.get("LocalSelfAttention.radius", 128, scope=stack.scope)
    rule = ("relative_attention_type", None, "LocalSelfAttention has no logits by distance")
    source.require_defaults("SelfAttention", [rule], scope=stack.scope)
    return cls, parameters


def _transparent(source: SourceConfig, stack: SourceStack) -> _Layer:
    """Only mixtures of whole blocks, one for each block of the decoder, are supported."""
    scope, kind = stack.scope, "TransparentEncDecAttention"
    sizes = {}
    for side, own in (("encoder", "encoder"), ("decoder", scope)):
        layers = source.get("make_layer_stack.layers", [], scope=own)
        blocks = source.get("make_layer_stack.num_layers", 6, scope=own)
        why = "only one mixture for every block of the decoder, of all blocks, is supported"
        for name, size in (
            (f"layers_per_{side}_module", len(layers)),
            (f"{side}_num_modules", blocks),
        ):
            if source.get(f"{kind}.{name}", 0, scope=scope) != size:
                source.refuse(f"{kind}.{name}", why, scope=scope)
        sizes[side] = blocks
    rate = source.get(f"{kind}.dropout_rate", 0.0, scope=scope)
    stack.parameters["zoo.TransparentDecoder"] = {}
    ours, parameters = encoder_attention(source, stack.scope)
    # It is the rate of both.
    parameters[ours]["dropout_rate"] = rate
    parameters["zoo.EncoderMixture"] = {
        "num_encoder_layers": sizes["encoder"],
        "dropout_rate": rate,
    }
    return ours, parameters


def _parallel(source: SourceConfig, stack: SourceStack) -> _Layer:
    target, scope = "ParallelLayer.layer_classes", stack.scope
    usual = [reference("@DenseReluDense"), reference("@SelfAttention")]
    source.get("ParallelLayer.use_scope", default=True, scope=scope)
    layers: list[Reference] = []
    parameters: dict[str, Parameters] = {}
    for entry in source.get(target, usual, scope=scope):
        kind = name_of(entry)
        if kind not in _LAYERS or kind == "ParallelLayer":
            source.refuse(target, f"{kind} is not supported", scope=scope)
            continue
        ours, of_layer = _LAYERS[kind](source, stack)
        layers.append(reference(f"@{ours}"))
        parameters |= of_layer
    transforms = [reference("@transformer.CallLayer"), reference("@transformer.ConstantFactor")]
    parameters["huggingface.Parallel"] = {"layers": layers, "transforms": transforms}
    parameters["transformer.ConstantFactor"] = {"factor": max(1, len(layers)) ** -0.5}
    return "huggingface.Parallel", parameters


def _synthesizer(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls, scope = "zoo.Synthesizer", stack.scope
    get = source.getter("Synthesizer", scope)
    modes = [f"{kind}_plus{alpha}" for alpha in ("_alpha", "") for kind in ("random", "dense")]
    mode = source.require(
        "Synthesizer.synthesize_mode",
        [*modes, "random", "factorized", "dense_minus"],
        "unknown mode",
        scope=scope,
    )
    rules = (
        ("num_memory_heads", 0, "keys and values have as many heads as queries"),
        ("keep_query_heads_dims", False, "the output has no heads"),
        ("fold_scaling_into_initializer", True, "the logits are not scaled"),
    )
    source.require_defaults("Synthesizer", rules, scope=scope)
    for name in ("shared_kv", "combine_dims", "attention_func"):
        source.ignore(f"Synthesizer.{name}", "the original does not use it", scope=scope)
    arguments = source.get("Synthesizer.attention_kwargs", None, scope=scope) or {}
    if not isinstance(arguments, dict) or set(arguments) - {"max_length", "factorized_dim"}:
        why = "only max_length and factorized_dim are supported"
        source.refuse("Synthesizer.attention_kwargs", why, scope=scope)
        arguments = {}
    kind, _, combination = mode.partition("_")
    # The others have 512 positions, whatever it says.
    reads_length = mode in ("random", "dense_minus")
    logits: Parameters = {
        "kind": kind,
        "dot_products": {"plus": "added", "plus_alpha": "gated"}.get(combination),
        "max_length": arguments.get("max_length", 512) if reads_length else 512,
        "factor_size": arguments.get("factorized_dim", 16),
    }
    num_heads = get("num_heads", 8)
    parameters: dict[str, Parameters] = {
        cls: {
            "num_heads": num_heads,
            "d_kv": get("key_value_size", 128),
            "logits": reference("@zoo.SyntheticLogits()"),
            "dropout_rate": get("dropout_rate", 0.0),
        },
        "zoo.SyntheticLogits": logits,
    }
    _add_relative_bias(source, stack, "Synthesizer", num_heads, cls, parameters)
    return cls, parameters


def _product_keys(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "zoo.ProductKeyMemory"
    parameters: Parameters = {}
    for ours, theirs in (
        *(("num_keys", "n_keys"), ("num_heads", "n_heads")),
        *(("key_size", "key_size"), ("num_selected", "knn")),
    ):
        target = f"ProductKeyValueMemory.{theirs}"
        if not source.has(target, scope=stack.scope):
            source.refuse(target, "it has no value", scope=stack.scope)
        parameters[ours] = source.get(target, 2, scope=stack.scope)
    return cls, {cls: parameters}


def _convolution(kind: str) -> Callable[[SourceConfig, SourceStack], _Layer]:
    def read(source: SourceConfig, stack: SourceStack) -> _Layer:
        scope, target = stack.scope, f"{kind}.activation"
        name = source.get(target, scope=scope) if source.has(target, scope=scope) else None
        d_model = source.get("Unitransformer.d_model", 1024, scope=scope)
        function = activation(source, target, name, scope)
        return convolution(source, kind, scope, function, d_model)

    return read


def _read_evolved(kind: str) -> Callable[[SourceConfig, SourceStack], _Layer]:
    return lambda source, stack: evolved_layer(source, kind, stack.scope)


def _functions(source: SourceConfig, target: str, scope: str) -> list[Reference | None]:
    return [activation(source, target, name, scope) for name in activations(source, target, scope)]


def _mixture(source: SourceConfig, stack: SourceStack) -> _Layer:
    functions = _functions(source, "MoE1D.activation", stack.scope)
    return "moe.MoE1D", mixture(MixtureArguments(source, stack.scope), functions)


def _mixture_of_two_levels(source: SourceConfig, stack: SourceStack) -> _Layer:
    return "moe.MoE2D", mixture_of_two_levels(MixtureArguments(source, stack.scope, "MoE2D"))


def _heterogeneous_mixture(source: SourceConfig, stack: SourceStack) -> _Layer:
    functions = _functions(source, "HeterogeneousMoE1D.activation", stack.scope)
    return "moe.MoE1D", heterogeneous_mixture(source, stack.scope, functions)


def _experts_attention(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls, scope = "zoo.ExpertsSelfAttention", stack.scope
    functions = _functions(source, f"{IN_ATTENTION}.activation", scope)
    heads = attention(source, IN_ATTENTION, cls, scope)["transformer.AttentionHeads"]
    parameters = experts_attention(source, scope, functions, heads)
    own = f"{IN_ATTENTION}.relative_attention_type"
    theirs = IN_ATTENTION if source.has(own, scope=scope) else "SelfAttention"
    _add_relative_bias(source, stack, theirs, heads["num_heads"], cls, parameters)
    return cls, parameters


_LAYERS: Mapping[str, Callable[[SourceConfig, SourceStack], _Layer]] = {
    "SelfAttention": _self_attention,
    "LocalSelfAttention": _local_self_attention,
    "EncDecAttention": lambda source, stack: encoder_attention(source, stack.scope),
    "TransparentEncDecAttention": _transparent,
    "DenseReluDense": _feed_forward,
    "MoE1D": _mixture,
    "MoE2D": _mixture_of_two_levels,
    "HeterogeneousMoE1D": _heterogeneous_mixture,
    IN_ATTENTION: _experts_attention,
    "TalkingHeadsSelfAttention": _talking_heads,
    "TalkingHeadsEncDecAttention": _talking_heads_to_encoder,
    "Synthesizer": _synthesizer,
    "ParallelLayer": _parallel,
    "ProductKeyValueMemory": _product_keys,
    **{kind: _convolution(kind) for kind in CONVOLUTIONS},
    **{kind: _read_evolved(kind) for kind in EVOLVED},
}


# Layers that the original computes other than their names say.
_WRONG = {
    "ExpertsEncDecAttention": "in the original it does not read the encoder's output: its keys are"
    " of the decoder's positions"
}

# They look at the stack that they are in.
_WITHOUT_SCOPE = ("LocalSelfAttention", "TransparentEncDecAttention", *CONVOLUTIONS, *EVOLVED)
