from __future__ import annotations

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Layer, Parameters, SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.attention import encoder_attention, read_heads
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import read_activations

_FILTERS = {
    "SeparableConv1DLayer": "transformer.TrainedFilters",
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
_DEPTHWISE, _HEADS = "transformer.DepthwiseConvolution", "transformer.AttentionHeads"
# Scopes of the two parallel attentions, which have different numbers of heads.
_SCOPE, _OF_SELF, _OF_ENCODER = "both_attentions", "twice_as_many", "base_number"


def convolution(kind: str, source: SourceConfig) -> Layer:
    parameters: dict[str, Parameters] = {}
    if kind == "Conv1DLayer":
        _require_encoder(source)
        size = source.get_bound("Conv1DLayer.filter_size", 1)
        window = {"first": -((size - 1) // 2), "last": size // 2, "masks_start": False}
        cls = outermost = "zoo.Convolution"
    else:
        cls, parameters, window = _depthwise(source, kind)
        outermost = _DEPTHWISE
    if source.get_bound(f"{kind}.output_size", 1) != source.get("Unitransformer.d_model", 1024):
        source.refuse(f"{kind}.output_size", "the output has the size of the input, d_model")
    if window["first"] > window["last"] or (not source.is_encoder and window["last"] > 0):
        why = "a decoder's position reads itself and earlier ones"
        source.refuse(f"{kind}.max_relative_pos", why)
    activation, *factors = read_activations(source, f"{kind}.activation", None)
    if factors:
        source.refuse(f"{kind}.activation", "a product of activations is not supported")
    parameters["transformer.ConvolutionWindow"] = window
    parameters[outermost] = {
        "window": reference("@transformer.ConvolutionWindow()"),
        **parameters.get(outermost, {}),
        "activation": activation,
    }
    return Layer(cls, parameters)


def _require_encoder(source: SourceConfig) -> None:
    if not source.is_encoder:
        why = "in a decoder it sees later positions in training: not supported"
        source.refuse("make_layer_stack.layers", why)


def _depthwise(source: SourceConfig, kind: str) -> tuple[str, dict[str, Parameters], Parameters]:
    get = source.getter(kind)
    window: Parameters = {
        "first": source.get_bound(f"{kind}.min_relative_pos", 1),
        "last": source.get_bound(f"{kind}.max_relative_pos", 1),
        # As the original's training does.
        "masks_start": not source.is_encoder,
    }
    inner = kind
    if kind == "LocalConvAttnBlock":
        inner = _OF_BLOCK[source.require(f"{kind}.attention_type", list(_OF_BLOCK), "unknown kind")]
    cls = _FILTERS[inner]
    filters: Parameters = {"scale": get("depthwise_filter_initializer_scale", 1.0)}
    if inner != "SeparableConv1DLayer":
        filters["repeats"] = source.get(f"{inner}.num_unique_depth_filters", 1)
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


def evolved_layer(kind: str, source: SourceConfig) -> Layer:
    if kind == "GatedLinearUnitLayer":
        return Layer("zoo.GatedLinearUnit", {"zoo.GatedLinearUnit": {}})
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
        return Layer("zoo.EncoderConvolutions", {"zoo.EncoderConvolutions": parameters})
    # As the original's training does in decoders.
    parameters["masks_start"] = not source.is_encoder
    return Layer("zoo.DecoderConvolutions", {"zoo.DecoderConvolutions": parameters})


def _decoder_attention(source: SourceConfig) -> Layer:
    number = source.get_bound("DecoderAttentionLayer.base_num_heads", 1)
    why = "logits by distance are not supported in this layer"
    source.require("SelfAttention.relative_attention_type", [None], why)
    to_encoder = encoder_attention(source)
    heads = next(value for cls, value in to_encoder.parameters.items() if cls.endswith(_HEADS))
    rate = source.get("SelfAttention.dropout_rate", 0.0)
    sides = (
        ("transformer.SelfAttention", _OF_SELF, {"dropout_rate": rate}),
        (to_encoder.cls, _OF_ENCODER, to_encoder.parameters[to_encoder.cls]),
    )
    parameters: dict[str, Parameters] = {
        f"{_OF_SELF}/{_HEADS}": {**read_heads(source, "SelfAttention"), "num_heads": 2 * number},
        f"{_OF_ENCODER}/{_HEADS}": {**heads, "num_heads": number},
        "huggingface.Parallel": {
            "layers": [reference(f"@{_SCOPE}/{cls}") for cls, *_ in sides],
            "transforms": [reference("@transformer.CallLayer")],
        },
    }
    for cls, side, attention in sides:
        heads_reference = reference(f"@{side}/{_HEADS}()")
        parameters[f"{_SCOPE}/{cls}"] = {**attention, "heads": heads_reference}
    return Layer("huggingface.Parallel", parameters)
