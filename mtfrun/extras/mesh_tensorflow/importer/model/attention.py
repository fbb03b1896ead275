from __future__ import annotations

import math

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Layer, Parameters, SourceConfig

_HEADS, _TALKING = "transformer.AttentionHeads", "zoo.TalkingHeads"


def read_heads(source: SourceConfig, kind: str) -> Parameters:
    get = source.getter(kind)
    arguments = get("attention_kwargs", None) or {}
    extra_logit = arguments.get("extra_logit") if isinstance(arguments, dict) else ...
    if not isinstance(extra_logit, float | int | None) or set(arguments) - {"extra_logit"}:
        source.refuse(f"{kind}.attention_kwargs", "only extra_logit, a number, is supported")
        extra_logit = None
    return {
        "num_memory_heads": get("num_memory_heads", 0) or None,
        "num_heads": get("num_heads", 8),
        "d_kv": get("key_value_size", 128),
        "shared_kv": get("shared_kv", default=False),
        "extra_logit": extra_logit,
    }


def with_bias(source: SourceConfig, kind: str, num_heads: int, layer: Layer) -> Layer:
    """Returns the layer with the relative bias of the original's class `kind`."""
    kinds, why = [None, "bias", "bias_shared"], "only logits by distance are supported: {} and {}"
    target = f"{kind}.relative_attention_type"
    relative_type = source.require(target, kinds, why.format(*kinds[1:]))
    buckets = source.get(f"{kind}.relative_attention_num_buckets", 32)
    bias = {"num_heads": num_heads, "num_buckets": buckets}
    if relative_type == "bias":
        add_bias(layer, bias)
    return layer._replace(bias=bias if relative_type == "bias_shared" else None)


def add_bias(layer: Layer, bias: Parameters) -> None:
    layer.parameters[layer.cls]["relative_bias"] = reference("@transformer.RelativePositionBias")
    layer.parameters["transformer.RelativePositionBias"] = bias


def self_attention(source: SourceConfig) -> Layer:
    cls = "transformer.SelfAttention"
    heads = read_heads(source, "SelfAttention")
    rate = source.get("SelfAttention.dropout_rate", 0.0)
    layer = Layer(cls, {_HEADS: heads, cls: {"dropout_rate": rate}})
    return with_bias(source, "SelfAttention", heads["num_heads"], layer)


def local_self_attention(source: SourceConfig) -> Layer:
    cls, kind = "transformer.LocalSelfAttention", "LocalSelfAttention"
    if source.is_encoder:
        why = "in an encoder it sees one position less before than after: not supported"
        source.refuse("make_layer_stack.layers", why)
    parameters = {
        "dropout_rate": source.get(f"{kind}.dropout_rate", 0.0),
        # Shipped files bind only SelfAttention.
        "heads": reference("@transformer.AttentionHeads()"),
        "window": source.get(f"{kind}.radius", 128),
    }
    why = "LocalSelfAttention has no logits by distance"
    source.require("SelfAttention.relative_attention_type", [None], why)
    return Layer(cls, {_HEADS: read_heads(source, kind), cls: parameters})


def encoder_attention(source: SourceConfig) -> Layer:
    cls, kind = "transformer.EncoderDecoderAttention", "EncDecAttention"
    rate = source.get(f"{kind}.dropout_rate", 0.0)
    layer = Layer(cls, {_HEADS: read_heads(source, kind), cls: {"dropout_rate": rate}})
    return _set_apart(layer, _HEADS, read_heads(source, "SelfAttention"))


def _set_apart(layer: Layer, heads: str, decoder_heads: Parameters) -> Layer:
    """Puts heads that differ from the decoder's into a scope."""
    if layer.parameters[heads] != decoder_heads:
        scoped = f"encoder_attention/{heads}"
        layer.parameters[scoped] = layer.parameters.pop(heads)
        layer.parameters[layer.cls]["heads"] = reference(f"@{scoped}()")
    return layer


def talking_heads(source: SourceConfig) -> Layer:
    kind = "TalkingHeadsSelfAttention"
    layer = _talking_layer(source, f"zoo.{kind}", kind)
    heads = dict(layer.parameters[_TALKING]["softmax_heads"])
    return with_bias(source, kind, math.prod(heads.values()), layer)


def talking_heads_to_encoder(source: SourceConfig) -> Layer:
    kind = "TalkingHeadsEncDecAttention"
    layer = _talking_layer(source, "zoo.TalkingHeadsEncoderDecoderAttention", kind)
    return _set_apart(layer, _TALKING, _talking_heads(source, "TalkingHeadsSelfAttention"))


def _talking_layer(source: SourceConfig, cls: str, kind: str) -> Layer:
    rate = source.get(f"{kind}.dropout_rate", 0.0)
    parameters = {"heads": reference(f"@{_TALKING}()"), "dropout_rate": rate}
    return Layer(cls, {_TALKING: _talking_heads(source, kind), cls: parameters})


def _talking_heads(source: SourceConfig, kind: str) -> Parameters:
    get = source.getter(kind)
    sides = ("key_heads", "softmax_heads", "value_heads")
    heads: Parameters = {side: get(f"{side}_dims", [("heads", 12)]) for side in sides}
    heads |= {"d_k": get("key_size", 64), "d_v": get("value_size", 64)}
    dynamic = get("dynamic_projections", None) or []
    for ours, end, side in (("logits", "l", "key_heads"), ("weights", "w", "value_heads")):
        named = [
            {"x": "query", "m": "memory"}[each[0]] for each in dynamic if each.endswith(f"2{end}")
        ]
        # Equal heads have no projection.
        is_equal = dict(heads[side]) == dict(heads["softmax_heads"])
        heads[f"dynamic_{ours}"] = [] if is_equal else named
    heads["dynamic_scale"] = get("dynamic_projections_init_scale", 1e-2)
    return heads


def synthesizer(source: SourceConfig) -> Layer:
    get = source.getter("Synthesizer")
    modes = [f"{kind}_plus{alpha}" for alpha in ("_alpha", "") for kind in ("random", "dense")]
    modes += ["random", "factorized", "dense_minus"]
    mode = source.require("Synthesizer.synthesize_mode", modes, "unknown mode")
    arguments = get("attention_kwargs", None) or {}
    if not isinstance(arguments, dict) or set(arguments) - {"max_length", "factorized_dim"}:
        why = "only max_length and factorized_dim are supported"
        source.refuse("Synthesizer.attention_kwargs", why)
        arguments = {}
    kind, _, combination = mode.partition("_")
    # Other modes ignore max_length.
    reads_length = mode in ("random", "dense_minus")
    logits: Parameters = {
        "kind": kind,
        "dot_products": {"plus": "added", "plus_alpha": "gated"}.get(combination),
        "max_length": arguments.get("max_length", 512) if reads_length else 512,
        "factor_size": arguments.get("factorized_dim", 16),
    }
    parameters: Parameters = {
        "num_heads": get("num_heads", 8),
        "d_kv": get("key_value_size", 128),
        "logits": reference("@zoo.SyntheticLogits()"),
        "dropout_rate": get("dropout_rate", 0.0),
    }
    layer = Layer("zoo.Synthesizer", {"zoo.Synthesizer": parameters, "zoo.SyntheticLogits": logits})
    return with_bias(source, "Synthesizer", parameters["num_heads"], layer)
