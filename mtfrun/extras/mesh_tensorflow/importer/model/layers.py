from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.published import load_published
from mtfrun.extras.mesh_tensorflow.importer.config import (
    Layer,
    Parameters,
    SourceConfig,
    name_of,
    short_name,
)
from mtfrun.extras.mesh_tensorflow.importer.model.attention import (
    add_bias,
    encoder_attention,
    local_self_attention,
    read_heads,
    self_attention,
    synthesizer,
    talking_heads,
    talking_heads_to_encoder,
    with_bias,
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
from mtfrun.extras.mesh_tensorflow.names import StackNames
from mtfrun.models.transformer.residual_transforms import distinct_names

_STACK_CLASSES = (
    *("zoo.TransparentEncoder", "zoo.TransparentDecoder"),
    *("zoo.ReversibleStack", "zoo.UniversalStack", "zoo.FunnelStack"),
    *("parity.TiedBiasStack", "parity.SharedLayersStack"),
)


@dataclasses.dataclass
class SourceStack:
    """A stack in our terms.

    `name`, and `names` and `kinds` of the block's layers, are parts of the original's variable
    names, as is the block if `block_scope`. Encoder-decoders (`has_encoder`) mask padding. `scope`
    is "encoder", "decoder" or "". `parameters` are by our class, with a scope where a layer has
    arguments. `relative_bias` has the parameters of a RelativePositionBias that all blocks share.
    """

    name: str
    scope: str
    num_layers: int = 6
    block_scope: bool = True
    layers: list[Reference] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    kinds: list[str] = dataclasses.field(default_factory=list)
    parameters: dict[str, Parameters] = dataclasses.field(default_factory=dict)
    relative_bias: Parameters | None = None

    @property
    def has_encoder(self) -> bool:
        return bool(self.scope)

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

    def variable_names(self) -> StackNames:
        sublayers = distinct_names([load_published()[layer.selector] for layer in self.layers])
        return StackNames(re.escape(self.name), sublayers, self._place, self.kinds)

    def _place(self, block: int, layer: int) -> str:
        if "zoo.Funnel" in self.parameters:
            part, sizes = 0, self.parameters["zoo.Funnel"]["num_layers"]
            while block >= sizes[part]:
                block -= sizes[part]
                part += 1
            return f"funnel_block_{part:03d}/param_idx_{block:03d}/submodule_{layer:03d}"
        if not self.block_scope:
            return f"layer_{block * len(self.names) + layer:03d}"
        return f"block_{block:03d}/{re.escape(self.names[layer])}"


def read_layers(source: SourceConfig, stack: SourceStack) -> None:
    layers: list[tuple[str, Layer]] = []
    for i, entry in enumerate(source.get("make_layer_stack.layers", [])):
        scoped_layer = _read_layer(source, stack, entry, f"layer_{i:03d}")
        layers += [scoped_layer] if scoped_layer else []
    biases = [layer.bias for _, layer in layers if layer.bias is not None]
    if biases and all(bias == biases[0] for bias in biases):
        stack.relative_bias = biases[0]
    elif biases:
        stack.parameters["parity.TiedBiasStack"] = {}
    for scope, layer in layers:
        if layer.bias is not None and stack.relative_bias is None:
            add_bias(layer, layer.bias)
        stack.layers.append(Reference((scope,) if scope else (), layer.cls, called=False))
        stack.add(source, in_scope(layer.parameters, scope) if scope else layer.parameters)


def _read_layer(
    source: SourceConfig, stack: SourceStack, entry: Any, name: str
) -> tuple[str, Layer] | None:
    """Reads a class, or a list of a name, arguments and a class, in any order.

    Returns our gin scope for the layer's parameters, or "", and the layer.
    """
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
    inner = source.within(where)
    inner.bind({f"{kind}.{argument}": value for argument, value in arguments.items()})
    layer = _LAYERS[kind](inner)
    for argument in arguments:
        if not inner.has_read(f"{kind}.{argument}"):
            source.refuse(target, f"{kind} has no argument {argument}")
    stack.names.append(names[0] if names else name)
    stack.kinds.append(kind)
    return our_scope, layer


def _feed_forward(source: SourceConfig) -> Layer:
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
        return Layer("transformer.GatedFeedForward", {"transformer.GatedFeedForward": parameters})
    parameters["use_bias"] = get("use_bias", default=False)
    return Layer("transformer.FeedForward", {"transformer.FeedForward": parameters})


def _transparent(source: SourceConfig) -> Layer:
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
    layer = encoder_attention(source)
    layer.parameters[layer.cls]["dropout_rate"] = rate
    layer.parameters["zoo.TransparentDecoder"] = {}
    mixture_of_blocks = {"num_encoder_layers": sizes["encoder"], "dropout_rate": rate}
    layer.parameters["zoo.EncoderMixture"] = mixture_of_blocks
    return layer


def _parallel(source: SourceConfig) -> Layer:
    target = "ParallelLayer.layer_classes"
    usual = [reference("@DenseReluDense"), reference("@SelfAttention")]
    source.get("ParallelLayer.use_scope", default=True)
    layers: list[Reference] = []
    parameters: dict[str, Parameters] = {}
    bias: Parameters | None = None
    for entry in source.get(target, usual):
        kind = name_of(entry)
        if kind not in _LAYERS or kind == "ParallelLayer":
            source.refuse(target, f"{kind} is not supported")
            continue
        layer = _LAYERS[kind](source)
        layers.append(reference(f"@{layer.cls}"))
        parameters |= layer.parameters
        bias = layer.bias or bias
    transforms = [reference("@transformer.CallLayer"), reference("@transformer.ConstantFactor")]
    parameters["huggingface.Parallel"] = {"layers": layers, "transforms": transforms}
    parameters["transformer.ConstantFactor"] = {"factor": max(1, len(layers)) ** -0.5}
    return Layer("huggingface.Parallel", parameters, bias)


def _product_keys(source: SourceConfig) -> Layer:
    names = {"num_keys": "n_keys", "num_heads": "n_heads", "key_size": "key_size"}
    parameters = {
        ours: source.get_bound(f"ProductKeyValueMemory.{theirs}", 2)
        for ours, theirs in {**names, "num_selected": "knn"}.items()
    }
    return Layer("zoo.ProductKeyMemory", {"zoo.ProductKeyMemory": parameters})


def _experts_attention(source: SourceConfig) -> Layer:
    # ExpertProjections shares keys and values.
    heads = {**read_heads(source, IN_ATTENTION), "shared_kv": False}
    layer = Layer("zoo.ExpertsSelfAttention", experts_attention(source, heads))
    return with_bias(source, IN_ATTENTION, heads["num_heads"], layer)


_LAYERS: Mapping[str, Callable[[SourceConfig], Layer]] = {
    "SelfAttention": self_attention,
    "TransparentEncDecAttention": _transparent,
    IN_ATTENTION: _experts_attention,
    "ParallelLayer": _parallel,
    "TalkingHeadsSelfAttention": talking_heads,
    "Synthesizer": synthesizer,
    "LocalSelfAttention": local_self_attention,
    "EncDecAttention": encoder_attention,
    "DenseReluDense": _feed_forward,
    "TalkingHeadsEncDecAttention": talking_heads_to_encoder,
    "ProductKeyValueMemory": _product_keys,
    "MoE1D": lambda source: Layer("moe.MoE1D", mixture(MixtureArguments(source))),
    "MoE2D": lambda source: Layer("moe.MoE2D", mixture_of_two_levels(source)),
    "HeterogeneousMoE1D": lambda source: Layer("moe.MoE1D", heterogeneous_mixture(source)),
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
