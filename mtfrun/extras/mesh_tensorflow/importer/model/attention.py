from __future__ import annotations

import math

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import Parameters, SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import IN_ATTENTION

_HEADS = "transformer.AttentionHeads"


def attention(source: SourceConfig, kind: str, cls: str) -> dict[str, Parameters]:
    # They inherit unbound parameters from SelfAttention.
    inherits = kind in ("EncDecAttention", IN_ATTENTION)
    kinds = ["SelfAttention", kind] if inherits else [kind]
    get = source.getter(*kinds)
    arguments = get("attention_kwargs", None) or {}
    extra_logit = arguments.get("extra_logit") if isinstance(arguments, dict) else ...
    if not isinstance(extra_logit, float | int | None) or set(arguments) - {"extra_logit"}:
        source.refuse(f"{kind}.attention_kwargs", "only extra_logit, a number, is supported")
        extra_logit = None
    heads: Parameters = {
        "num_memory_heads": get("num_memory_heads", 0) or None,
        "num_heads": get("num_heads", 8),
        "d_kv": get("key_value_size", 128),
        # See ExpertProjections.shared_kv.
        "shared_kv": kind != IN_ATTENTION and get("shared_kv", default=False),
        "extra_logit": extra_logit,
    }
    return {_HEADS: heads, cls: {"dropout_rate": get("dropout_rate", 0.0)}}


def encoder_attention(source: SourceConfig) -> tuple[str, dict[str, Parameters]]:
    cls = "transformer.EncoderDecoderAttention"
    parameters = attention(source, "EncDecAttention", cls)
    decoder_parameters = attention(source, "SelfAttention", cls)
    _set_apart(parameters, decoder_parameters, cls, _HEADS)
    return cls, parameters


def _set_apart(
    parameters: dict[str, Parameters],
    decoder_parameters: dict[str, Parameters],
    cls: str,
    heads: str,
) -> None:
    """Puts heads that differ from the decoder's into a scope."""
    if parameters[heads] != decoder_parameters[heads]:
        scoped = f"encoder_attention/{heads}"
        parameters[scoped] = parameters.pop(heads)
        parameters[cls]["heads"] = reference(f"@{scoped}()")


def talking_heads(
    source: SourceConfig, *kinds: str, cls: str = "zoo.TalkingHeadsSelfAttention"
) -> tuple[dict[str, Parameters], int]:
    """Returns the parameters of our classes, and the number of heads of the softmax."""
    get = source.getter(*(kinds or ("TalkingHeadsSelfAttention",)))
    sides = ("key_heads", "softmax_heads", "value_heads")
    dims = {side: get(f"{side}_dims", [("heads", 12)]) for side in sides}
    sizes = {side: dict(value) for side, value in dims.items()}
    heads: Parameters = {**dims, "d_k": get("key_size", 64), "d_v": get("value_size", 64)}
    dynamic = get("dynamic_projections", None) or []
    for ours, end, side in (("logits", "l", "key_heads"), ("weights", "w", "value_heads")):
        named = [
            {"x": "query", "m": "memory"}[each[0]] for each in dynamic if each.endswith(f"2{end}")
        ]
        # Equal heads have no projection.
        heads[f"dynamic_{ours}"] = named if sizes[side] != sizes["softmax_heads"] else []
    heads["dynamic_scale"] = get("dynamic_projections_init_scale", 1e-2)
    parameters: dict[str, Parameters] = {
        "zoo.TalkingHeads": heads,
        cls: {"heads": reference("@zoo.TalkingHeads()"), "dropout_rate": get("dropout_rate", 0.0)},
    }
    return parameters, math.prod(sizes["softmax_heads"].values())


def talking_heads_to_encoder(source: SourceConfig) -> tuple[str, dict[str, Parameters]]:
    cls, theirs = "zoo.TalkingHeadsEncoderDecoderAttention", "TalkingHeadsEncDecAttention"
    # It inherits unbound parameters from its base class.
    parameters, _ = talking_heads(source, "TalkingHeadsSelfAttention", theirs, cls=cls)
    decoder_parameters, _ = talking_heads(source)
    _set_apart(parameters, decoder_parameters, cls, "zoo.TalkingHeads")
    return cls, parameters


def synthesizer(source: SourceConfig) -> tuple[dict[str, Parameters], int]:
    """Returns the parameters of our classes, and the number of heads."""
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
    num_heads = get("num_heads", 8)
    attributes = {"num_heads": num_heads, "d_kv": get("key_value_size", 128)}
    attributes["logits"] = reference("@zoo.SyntheticLogits()")
    logits: Parameters = {
        "kind": kind,
        "dot_products": {"plus": "added", "plus_alpha": "gated"}.get(combination),
        "max_length": arguments.get("max_length", 512) if reads_length else 512,
        "factor_size": arguments.get("factorized_dim", 16),
    }
    attributes["dropout_rate"] = get("dropout_rate", 0.0)
    return {"zoo.Synthesizer": attributes, "zoo.SyntheticLogits": logits}, num_heads
