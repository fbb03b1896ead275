from __future__ import annotations

from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.attention import attention, encoder_attention
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import read_activations

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
EVOLVED = (
    *("GatedLinearUnitLayer", "EncoderConvolutionalLayer"),
    *("DecoderAttentionLayer", "DecoderConvolutionalLayer"),
)
_DEPTHWISE, _HEADS = "zoo.DepthwiseConvolution", "transformer.AttentionHeads"
# Scopes of the two parallel attentions, which have different numbers of heads.
_SCOPE, _OF_SELF, _OF_ENCODER = "both_attentions", "twice_as_many", "base_number"


def convolution(kind: str, source: SourceConfig, _: object) -> tuple[str, dict[str, Parameters]]:
    """Returns our class, and the parameters of classes by name."""
    parameters: dict[str, Parameters] = {}
    if kind == "Conv1DLayer":
        _require_encoder(source)
        size = source.get_bound("Conv1DLayer.filter_size", 1)
        window = {"first": -((size - 1) // 2), "last": size // 2, "masks_start": False}
        cls = outermost = "zoo.Convolution"
    else:
        cls, parameters, window = _depthwise(source, kind)
        outermost = _DEPTHWISE
    if _get_bound(source, kind, "output_size") != source.get("Unitransformer.d_model", 1024):
        source.refuse(f"{kind}.output_size", "the output has the size of the input, d_model")
    if window["first"] > window["last"] or (not source.is_encoder and window["last"] > 0):
        why = "a decoder's position reads itself and earlier ones"
        source.refuse(f"{kind}.max_relative_pos", why)
    activation, *factors = read_activations(source, f"{kind}.activation", None)
    if factors:
        source.refuse(f"{kind}.activation", "a product of activations is not supported")
    parameters["zoo.ConvolutionWindow"] = window
    parameters[outermost] = {
        "window": reference("@zoo.ConvolutionWindow()"),
        **parameters.get(outermost, {}),
        "activation": activation,
    }
    return cls, parameters


def _require_encoder(source: SourceConfig) -> None:
    if not source.is_encoder:
        why = "in a decoder it sees later positions in training: not supported"
        source.refuse("make_layer_stack.layers", why)


def _depthwise(source: SourceConfig, kind: str) -> tuple[str, dict[str, Parameters], Parameters]:
    get = source.getter(*_with_base(kind))
    window: Parameters = {
        "first": _get_bound(source, kind, "min_relative_pos"),
        "last": _get_bound(source, kind, "max_relative_pos"),
        # As the original's training does.
        "masks_start": not source.is_encoder,
    }
    inner = kind
    if kind == "LocalConvAttnBlock":
        inner = _OF_BLOCK[source.require(f"{kind}.attention_type", list(_OF_BLOCK), "unknown kind")]
    cls = _FILTERS[inner]
    filters: Parameters = {"scale": get("depthwise_filter_initializer_scale", 1.0)}
    if inner != "SeparableConv1DLayer":
        filters["repeats"] = source.getter(*_with_base(inner))("num_unique_depth_filters", 1)
    parameters: dict[str, Parameters] = {
        _DEPTHWISE: {
            "filters": reference(f"@{cls}"),
            "pointwise_scale": get("pointwise_filter_initializer_scale", 1.0),
        },
        cls: filters,
    }
    if kind != "LocalConvAttnBlock":
        return _DEPTHWISE, parameters, window
    gated = "zoo.GatedConvolution"
    parameters[gated] = {"convolution": reference(f"@{_DEPTHWISE}")}
    return gated, parameters, window


def _with_base(kind: str) -> list[str]:
    """Returns the class, after its base class if it inherits unbound parameters."""
    inherits = kind in ("LightweightConv1DLocalAttn", "DynamicConv1DLocalAttn")
    return ["Conv1DLocalAttn", kind] if inherits else [kind]


def _get_bound(source: SourceConfig, kind: str, name: str) -> Any:
    kinds = _with_base(kind)
    if not any(source.has(f"{each}.{name}") for each in kinds):
        source.refuse(f"{kind}.{name}", "it has no value")
    return source.getter(*kinds)(name, 1)


def evolved_layer(kind: str, source: SourceConfig, _: object) -> tuple[str, dict[str, Parameters]]:
    """Returns our class, and the parameters of classes by name."""
    if kind == "GatedLinearUnitLayer":
        return "zoo.GatedLinearUnit", {"zoo.GatedLinearUnit": {}}
    if kind == "DecoderAttentionLayer":
        return _decoder_attention(source)
    get = source.getter(kind)
    if source.get_bound(f"{kind}.d_model", 1) != source.get("Unitransformer.d_model", 1024):
        source.refuse(f"{kind}.d_model", "it is the size of the input")
    parameters: Parameters = {
        "dropout_rate": source.get_bound(f"{kind}.dropout_rate", 1),
        "filter_scale": get("initializer_scale", 1.0),
        "norm_epsilon": get("norm_epsilon", 1e-6),
    }
    if kind == "EncoderConvolutionalLayer":
        _require_encoder(source)
        return "zoo.EncoderConvolutions", {"zoo.EncoderConvolutions": parameters}
    # As the original's training does in decoders.
    parameters["masks_start"] = not source.is_encoder
    return "zoo.DecoderConvolutions", {"zoo.DecoderConvolutions": parameters}


def _decoder_attention(source: SourceConfig) -> tuple[str, dict[str, Parameters]]:
    number = source.get_bound("DecoderAttentionLayer.base_num_heads", 1)
    why = "logits by distance are not supported in this layer"
    source.require("SelfAttention.relative_attention_type", [None], why)
    ours = "transformer.SelfAttention"
    self_parameters = attention(source, "SelfAttention", ours)
    theirs, encoder_parameters = encoder_attention(source)
    heads = next(value for cls, value in encoder_parameters.items() if cls.endswith(_HEADS))
    parameters: dict[str, Parameters] = {
        f"{_OF_SELF}/{_HEADS}": {**self_parameters[_HEADS], "num_heads": 2 * number},
        f"{_OF_ENCODER}/{_HEADS}": {**heads, "num_heads": number},
        "huggingface.Parallel": {
            "layers": [reference(f"@{_SCOPE}/{cls}") for cls in (ours, theirs)],
            "transforms": [reference("@transformer.CallLayer")],
        },
    }
    sides = ((ours, _OF_SELF, self_parameters), (theirs, _OF_ENCODER, encoder_parameters))
    for cls, side, read in sides:
        heads_reference = reference(f"@{side}/{_HEADS}()")
        parameters[f"{_SCOPE}/{cls}"] = {**read[cls], "heads": heads_reference}
    return "huggingface.Parallel", parameters
