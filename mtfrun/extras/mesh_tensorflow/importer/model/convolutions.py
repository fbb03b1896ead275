from __future__ import annotations

from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.attention import attention, encoder_attention

Parameters = dict[str, Any]

_FILTERS = {
    "SeparableConv1DLayer": "zoo.TrainedFilters",
    "LightweightConv1DLocalAttn": "zoo.LightweightFilters",
    "DynamicConv1DLocalAttn": "zoo.DynamicFilters",
}
_OF_BLOCK = {
    "lightweight_conv": "LightweightConv1DLocalAttn",
    "dynamic_conv": "DynamicConv1DLocalAttn",
}
CONVOLUTIONS = ("Conv1DLayer", *_FILTERS, "LocalConvAttnBlock")
_LAYERS = "make_layer_stack.layers"


def convolution(
    source: SourceConfig, kind: str, scope: str, activation: Reference | None, d_model: int
) -> tuple[str, dict[str, Parameters]]:
    """Returns our class, and the parameters of classes by name."""
    parameters: dict[str, Parameters] = {}
    if kind == "Conv1DLayer":
        if scope != "encoder":
            why = "in a decoder it sees later positions in training: not supported"
            source.refuse(_LAYERS, why, scope=scope)
        size = _require(source, [kind], "filter_size", scope)
        window = {"first": -((size - 1) // 2), "last": size // 2, "masks_start": False}
        cls = "zoo.Convolution"
    else:
        cls, parameters, window = _depthwise(source, kind, scope)
    if _require(source, _with_base(kind), "output_size", scope) != d_model:
        why = "the output has the size of the input, d_model"
        source.refuse(f"{kind}.output_size", why, scope=scope)
    if window["first"] > window["last"] or (scope != "encoder" and window["last"] > 0):
        why = "a decoder's position reads itself and earlier ones"
        source.refuse(f"{kind}.max_relative_pos", why, scope=scope)
    parameters["zoo.ConvolutionWindow"] = window
    of_convolution = {"window": reference("@zoo.ConvolutionWindow()")}
    outermost = "zoo.Convolution" if kind == "Conv1DLayer" else _DEPTHWISE
    known = parameters.setdefault(outermost, {})
    parameters[outermost] = {**of_convolution, **known, "activation": activation}
    return cls, parameters


_DEPTHWISE = "zoo.DepthwiseConvolution"


def _depthwise(
    source: SourceConfig, kind: str, scope: str
) -> tuple[str, dict[str, Parameters], Parameters]:
    kinds = _with_base(kind)
    window: Parameters = {
        "first": _require(source, kinds, "min_relative_pos", scope),
        "last": _require(source, kinds, "max_relative_pos", scope),
        # As the original's training does.
        "masks_start": scope != "encoder",
    }
    inner = kind
    if kind == "LocalConvAttnBlock":
        source.ignore(f"{kind}.num_unique_depth_filters", "the original does not use it")
        target = f"{kind}.attention_type"
        inner = _OF_BLOCK[source.require(target, list(_OF_BLOCK), "unknown kind", scope=scope)]
    scale = _get(source, kinds, "depthwise_filter_initializer_scale", 1.0, scope)
    filters: Parameters = {"scale": scale}
    if inner != "SeparableConv1DLayer":
        name = "num_unique_depth_filters"
        filters["repeats"] = _get(source, _with_base(inner), name, 1, scope)
    cls = _FILTERS[inner]
    pointwise = _get(source, kinds, "pointwise_filter_initializer_scale", 1.0, scope)
    parameters: dict[str, Parameters] = {
        _DEPTHWISE: {"filters": reference(f"@{cls}"), "pointwise_scale": pointwise},
        cls: filters,
    }
    if kind != "LocalConvAttnBlock":
        return _DEPTHWISE, parameters, window
    gated = "zoo.GatedConvolution"
    parameters[gated] = {"convolution": reference(f"@{_DEPTHWISE}")}
    return gated, parameters, window


def _with_base(kind: str) -> list[str]:
    """Returns the class behind the one whose unbound parameters it inherits."""
    inherits = kind in ("LightweightConv1DLocalAttn", "DynamicConv1DLocalAttn")
    return ["Conv1DLocalAttn", kind] if inherits else [kind]


def _get(source: SourceConfig, kinds: list[str], name: str, default: Any, scope: str) -> Any:
    for kind in kinds:
        default = source.get(f"{kind}.{name}", default, scope=scope)
    return default


def _require(source: SourceConfig, kinds: list[str], name: str, scope: str) -> int:
    if not any(source.has(f"{kind}.{name}", scope=scope) for kind in kinds):
        source.refuse(f"{kinds[-1]}.{name}", "it has no value", scope=scope)
    value: int = _get(source, kinds, name, 1, scope)
    return value


Parameters = dict[str, Any]

EVOLVED = (
    *("GatedLinearUnitLayer", "EncoderConvolutionalLayer"),
    *("DecoderAttentionLayer", "DecoderConvolutionalLayer"),
)
_HEADS = "transformer.AttentionHeads"
# Of the two attentions side by side; their numbers of heads differ.
_SCOPE, _OF_SELF, _OF_ENCODER = "both_attentions", "twice_as_many", "base_number"


def evolved_layer(source: SourceConfig, kind: str, scope: str) -> tuple[str, dict[str, Parameters]]:
    """Returns our class, and the parameters of classes by name."""
    if kind == "GatedLinearUnitLayer":
        return "zoo.GatedLinearUnit", {"zoo.GatedLinearUnit": {}}
    if kind == "DecoderAttentionLayer":
        return _decoder_attention(source, scope)
    return _convolutions(source, kind, scope)


def _convolutions(source: SourceConfig, kind: str, scope: str) -> tuple[str, dict[str, Parameters]]:
    is_encoder = kind == "EncoderConvolutionalLayer"
    if is_encoder and scope != "encoder":
        why = "in a decoder it sees later positions in training: not supported"
        source.refuse("make_layer_stack.layers", why, scope=scope)
    if _require(source, kind, "d_model", scope) != source.get(
        "Unitransformer.d_model", 1024, scope=scope
    ):
        source.refuse(f"{kind}.d_model", "it is the size of the input", scope=scope)
    get = source.getter(kind, scope)
    parameters: Parameters = {
        "dropout_rate": _require(source, kind, "dropout_rate", scope),
        "filter_scale": get("initializer_scale", 1.0),
        "norm_epsilon": get("norm_epsilon", 1e-6),
    }
    if is_encoder:
        return "zoo.EncoderConvolutions", {"zoo.EncoderConvolutions": parameters}
    # As the original's training does in decoders.
    parameters["masks_start"] = scope != "encoder"
    return "zoo.DecoderConvolutions", {"zoo.DecoderConvolutions": parameters}


def _decoder_attention(source: SourceConfig, scope: str) -> tuple[str, dict[str, Parameters]]:
    number = _require(source, "DecoderAttentionLayer", "base_num_heads", scope)
    rule = ("relative_attention_type", None, "logits by distance are not supported in this layer")
    source.require_defaults("SelfAttention", [rule], scope=scope)
    ours = "transformer.SelfAttention"
    of_self = attention(source, "SelfAttention", ours, scope)
    theirs, of_encoder = encoder_attention(source, scope)
    heads = next(value for cls, value in of_encoder.items() if cls.endswith(_HEADS))
    parameters: dict[str, Parameters] = {
        f"{_OF_SELF}/{_HEADS}": {**of_self[_HEADS], "num_heads": 2 * number},
        f"{_OF_ENCODER}/{_HEADS}": {**heads, "num_heads": number},
        "huggingface.Parallel": {
            "layers": [reference(f"@{_SCOPE}/{cls}") for cls in (ours, theirs)],
            "transforms": [reference("@transformer.CallLayer")],
        },
    }
    for cls, side, read in ((ours, _OF_SELF, of_self), (theirs, _OF_ENCODER, of_encoder)):
        of_heads = reference(f"@{side}/{_HEADS}()")
        parameters[f"{_SCOPE}/{cls}"] = {**read[cls], "heads": of_heads}
    return "huggingface.Parallel", parameters


def _require(source: SourceConfig, kind: str, name: str, scope: str) -> Any:
    target = f"{kind}.{name}"
    if not source.has(target, scope=scope):
        source.refuse(target, "it has no value", scope=scope)
    return source.get(target, 1, scope=scope)
