from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.published import load_published
from mtfrun.extras.mesh_tensorflow.importer.config import (
    Parameters,
    SourceConfig,
    name_of,
    short_name,
)
from mtfrun.extras.mesh_tensorflow.importer.model.attention import (
    attention,
    encoder_attention,
    synthesizer,
    talking_heads,
    talking_heads_to_encoder,
)
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
    read_activations,
)
from mtfrun.models.transformer.residual_transforms import distinct_names

# The name of our class, and the parameters of classes by name.
_Layer = tuple[str, dict[str, Parameters]]
_Reader = Callable[[SourceConfig, "SourceStack"], _Layer]

_STACK_CLASSES = (
    *("zoo.TransparentEncoder", "zoo.TransparentDecoder"),
    *("zoo.ReversibleStack", "zoo.UniversalStack", "zoo.FunnelStack"),
    *("parity.TiedBiasStack", "parity.SharedLayersStack"),
)


@dataclasses.dataclass
class SourceStack:
    """A stack in our terms.

    `name` and `names`, the block's layers, are parts of the original's variable names, as is the
    block if `block_scope`. Encoder-decoders (`has_encoder`) mask padding. `scope` is "encoder",
    "decoder" or "". `parameters` are by our class, with a scope where a layer has arguments.
    `relative_bias` has the parameters of a RelativePositionBias that all blocks share.
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
        """Our class, which is among the parameters unless it is Stack."""
        return next((cls for cls in _STACK_CLASSES if cls in self.parameters), "transformer.Stack")

    def add(self, source: SourceConfig, parameters: Mapping[str, Parameters]) -> None:
        """Adds parameters of a layer, refusing values that differ from another layer's."""
        for cls, arguments in parameters.items():
            known = self.parameters.setdefault(cls, {})
            for parameter, value in arguments.items():
                if known.setdefault(parameter, value) != value:
                    why = f"layers of a block differ in {cls}.{parameter}: not supported"
                    source.refuse("make_layer_stack.layers", why)

    @property
    def path(self) -> str:
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


class SourceLayer(NamedTuple):
    """A layer of a block; `scope` is our gin scope for its parameters, or "".

    `part` has the layer's additions to a stack, and the original's scope.
    """

    name: str
    scope: str
    part: SourceStack
    cls: str
    parameters: dict[str, Parameters]


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
        source.refuse(target, f"an entry has {len(references)} classes")
        return None
    kind = short_name(references[0].selector)
    # A reference's scope replaces the stack's.
    scopes = references[0].scopes
    where = "/".join(scopes) if scopes else scope
    own = [*scopes, *(f"{key}_{value}" for key, value in arguments.items())]
    why = _WRONG.get(kind, "")
    if kind not in _LAYERS and not why:
        why = f"{kind} is not supported, only {', '.join(_LAYERS)}"
    if own and kind in _WITHOUT_SCOPE:
        why = f"{kind} with arguments or a scope is not supported"
    if why:
        source.refuse(target, why)
        return None
    our_scope = ""
    if own:
        our_scope = re.sub(r"\W+", "_", "_".join([*[scope] * bool(scope), *own])).strip("_")
    if arguments:
        where = f"{where}/{our_scope}" if where else our_scope
    part, inner = SourceStack(stack.name, where, stack.has_encoder), source.within(where)
    for argument, value in arguments.items():
        inner.bind(f"{kind}.{argument}", value)
    cls, parameters = _LAYERS[kind](inner, part)
    for argument in arguments:
        if not inner.has_read(f"{kind}.{argument}"):
            source.refuse(target, f"{kind} has no argument {argument}")
    return SourceLayer(names[0] if names else name, our_scope, part, cls, parameters)


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
        parameters = layer.parameters
        stack.add(source, in_scope(parameters, layer.scope) if layer.scope else parameters)


def _feed_forward(source: SourceConfig, _: SourceStack) -> _Layer:
    target, get = "DenseReluDense.activation", source.getter("DenseReluDense")
    parameters: Parameters = {
        "d_ff": get("hidden_size", 4096),
        "dropout_rate": get("dropout_rate", 0.0),
    }
    activation, *factors = read_activations(source, target)
    is_gated = factors == [None]
    if factors and not is_gated:
        source.refuse(target, "a product of two with the second linear is supported")
    parameters["activation"] = activation
    if is_gated:
        source.require("DenseReluDense.use_bias", [False], "gated layers have none")
        return "transformer.GatedFeedForward", {"transformer.GatedFeedForward": parameters}
    parameters["use_bias"] = get("use_bias", default=False)
    return "transformer.FeedForward", {"transformer.FeedForward": parameters}


def _self_attention(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "transformer.SelfAttention"
    parameters = attention(source, "SelfAttention", cls)
    num_heads = parameters["transformer.AttentionHeads"]["num_heads"]
    return _with_relative_bias(source, stack, "SelfAttention", num_heads, (cls, parameters))


def _with_relative_bias(
    source: SourceConfig, stack: SourceStack, theirs: str, num_heads: int, layer: _Layer
) -> _Layer:
    """Adds the relative bias of a class `theirs` to the layer's or the stack's parameters."""
    kinds, why = [None, "bias", "bias_shared"], "only logits by distance are supported: {} and {}"
    target = f"{theirs}.relative_attention_type"
    kind = source.require(target, kinds, why.format(*kinds[1:]))
    buckets = source.get(f"{theirs}.relative_attention_num_buckets", 32)
    bias = {"num_heads": num_heads, "num_buckets": buckets}
    if kind == "bias_shared":
        stack.relative_bias = bias
    if kind == "bias":
        _add_own_bias(*layer, bias)
    return layer


def _add_own_bias(cls: str, parameters: dict[str, Parameters], bias: Parameters) -> None:
    parameters[cls]["relative_bias"] = reference("@transformer.RelativePositionBias")
    parameters["transformer.RelativePositionBias"] = bias


def _local_self_attention(source: SourceConfig, _: SourceStack) -> _Layer:
    cls = "transformer.LocalSelfAttention"
    if source.is_encoder:
        why = "in an encoder it sees one position less before than after: not supported"
        source.refuse("make_layer_stack.layers", why)
    parameters = attention(source, "LocalSelfAttention", cls)
    # Shipped files bind only SelfAttention.
    parameters[cls]["heads"] = reference("@transformer.AttentionHeads()")
    parameters[cls]["window"] = source.get("LocalSelfAttention.radius", 128)
    why = "LocalSelfAttention has no logits by distance"
    source.require("SelfAttention.relative_attention_type", [None], why)
    return cls, parameters


def _transparent(source: SourceConfig, stack: SourceStack) -> _Layer:
    """Supports only mixtures of whole blocks, one per block of the decoder."""
    kind = "TransparentEncDecAttention"
    get = source.getter(kind)
    sizes = {}
    for side, own in (("encoder", source.within("encoder")), ("decoder", source)):
        sizes[side] = own.get("make_layer_stack.num_layers", 6)
        why = "only one mixture for every block of the decoder, of all blocks, is supported"
        for name, size in (
            (f"layers_per_{side}_module", len(own.get("make_layer_stack.layers", []))),
            (f"{side}_num_modules", sizes[side]),
        ):
            if get(name, 0) != size:
                source.refuse(f"{kind}.{name}", why)
    rate = get("dropout_rate", 0.0)
    stack.parameters["zoo.TransparentDecoder"] = {}
    ours, parameters = encoder_attention(source)
    parameters[ours]["dropout_rate"] = rate
    mixture_of_blocks = {"num_encoder_layers": sizes["encoder"], "dropout_rate": rate}
    parameters["zoo.EncoderMixture"] = mixture_of_blocks
    return ours, parameters


def _parallel(source: SourceConfig, stack: SourceStack) -> _Layer:
    target = "ParallelLayer.layer_classes"
    usual = [reference("@DenseReluDense"), reference("@SelfAttention")]
    source.get("ParallelLayer.use_scope", default=True)
    layers: list[Reference] = []
    parameters: dict[str, Parameters] = {}
    for entry in source.get(target, usual):
        kind = name_of(entry)
        if kind not in _LAYERS or kind == "ParallelLayer":
            source.refuse(target, f"{kind} is not supported")
            continue
        ours, arguments = _LAYERS[kind](source, stack)
        layers.append(reference(f"@{ours}"))
        parameters |= arguments
    transforms = [reference("@transformer.CallLayer"), reference("@transformer.ConstantFactor")]
    parameters["huggingface.Parallel"] = {"layers": layers, "transforms": transforms}
    parameters["transformer.ConstantFactor"] = {"factor": max(1, len(layers)) ** -0.5}
    return "huggingface.Parallel", parameters


def _product_keys(source: SourceConfig, _: SourceStack) -> _Layer:
    names = {"num_keys": "n_keys", "num_heads": "n_heads", "key_size": "key_size"}
    parameters = {
        ours: source.get_bound(f"ProductKeyValueMemory.{theirs}", 2)
        for ours, theirs in {**names, "num_selected": "knn"}.items()
    }
    return "zoo.ProductKeyMemory", {"zoo.ProductKeyMemory": parameters}


def _experts_attention(source: SourceConfig, stack: SourceStack) -> _Layer:
    cls = "zoo.ExpertsSelfAttention"
    heads = attention(source, IN_ATTENTION, cls)["transformer.AttentionHeads"]
    layer = cls, experts_attention(source, heads)
    has_own = source.has(f"{IN_ATTENTION}.relative_attention_type")
    theirs = IN_ATTENTION if has_own else "SelfAttention"
    return _with_relative_bias(source, stack, theirs, heads["num_heads"], layer)


def _with_heads(kind: str, read: Any, source: SourceConfig, stack: SourceStack) -> _Layer:
    """Reads a class of zoo with the same name; `read` returns its parameters and heads."""
    parameters, num_heads = read(source)
    return _with_relative_bias(source, stack, kind, num_heads, (f"zoo.{kind}", parameters))


_LAYERS: Mapping[str, _Reader] = {
    "SelfAttention": _self_attention,
    "TransparentEncDecAttention": _transparent,
    IN_ATTENTION: _experts_attention,
    "ParallelLayer": _parallel,
    "TalkingHeadsSelfAttention": functools.partial(
        _with_heads, "TalkingHeadsSelfAttention", talking_heads
    ),
    "Synthesizer": functools.partial(_with_heads, "Synthesizer", synthesizer),
    "LocalSelfAttention": _local_self_attention,
    "EncDecAttention": lambda source, _: encoder_attention(source),
    "DenseReluDense": _feed_forward,
    "TalkingHeadsEncDecAttention": lambda source, _: talking_heads_to_encoder(source),
    "ProductKeyValueMemory": _product_keys,
    "MoE1D": lambda source, _: ("moe.MoE1D", mixture(MixtureArguments(source))),
    "MoE2D": lambda source, _: ("moe.MoE2D", mixture_of_two_levels(source)),
    "HeterogeneousMoE1D": lambda source, _: ("moe.MoE1D", heterogeneous_mixture(source)),
    **{kind: functools.partial(convolution, kind) for kind in CONVOLUTIONS},
    **{kind: functools.partial(evolved_layer, kind) for kind in EVOLVED},
}
# Layers with bugs in the original.
_WRONG = {
    "ExpertsEncDecAttention": "in the original it does not read the encoder's output: its keys are"
    " of the decoder's positions"
}
# Layers that read their stack, or already use scopes.
_WITHOUT_SCOPE = ("TransparentEncDecAttention", "DecoderAttentionLayer")
