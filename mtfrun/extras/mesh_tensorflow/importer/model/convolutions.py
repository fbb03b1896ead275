from __future__ import annotations

from typing import Any

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig

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
