from __future__ import annotations

from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.attention import attention, encoder_attention

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
