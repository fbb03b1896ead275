from __future__ import annotations

from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.mixtures import IN_ATTENTION

Parameters = dict[str, Any]


def encoder_attention(source: SourceConfig, scope: str) -> tuple[str, dict[str, Parameters]]:
    rule = ("relative_attention_type", None, "logits by distance to inputs are not supported")
    source.require_defaults("EncDecAttention", [rule], scope=scope)
    for name in ("relative_attention_num_buckets", *_HYPERPROMPTS):
        why = "attention to an encoder does not read it"
        source.ignore(f"EncDecAttention.{name}", why, scope=scope)
    cls, heads = "transformer.EncoderDecoderAttention", "transformer.AttentionHeads"
    parameters = attention(source, "EncDecAttention", cls, scope)
    of_decoder = attention(source, "SelfAttention", cls, scope)[heads]
    if parameters[heads] != of_decoder:
        scoped = f"encoder_attention/{heads}"
        parameters[scoped] = parameters.pop(heads)
        parameters[cls]["heads"] = reference(f"@{scoped}()")
    return cls, parameters


_HYPERPROMPTS = (
    *("use_hyperprompt", "hyperprompt_mtlshare", "hyperprompt_length_encoder"),
    *("hyperprompt_length_decoder", "hyperprompt_hidden_dim", "hyperprompt_task_num"),
)


# Of `AttentionHeads`: layers of a stack may differ in them, and one may reset another's.
OPTIONAL_HEADS: Parameters = {"num_memory_heads": None, "shared_kv": False, "extra_logit": None}


# Parameters of attention with their only supported values; LocalSelfAttention has none of them.
_UNSUPPORTED: tuple[tuple[str, Any, str], ...] = (
    ("attention_func", None, "only the softmax of dot products is supported"),
    ("combine_dims", True, "the slots of Adafactor would have other shapes"),
    ("keep_query_heads_dims", False, "the output has no heads"),
    ("fold_scaling_into_initializer", True, "the logits are not scaled"),
    ("z_loss_coeff", None, "attention has no z-loss"),
    ("use_hyperprompt", False, "prompts that are learned are not supported"),
)


def attention(source: SourceConfig, kind: str, cls: str, scope: str) -> dict[str, Parameters]:
    # These inherit unbound parameters from their base class, SelfAttention.
    inherits = kind in ("EncDecAttention", IN_ATTENTION)
    kinds = ["SelfAttention", kind] if inherits else [kind]

    def get(name: str, default: Any) -> Any:
        for each in kinds:
            default = source.get(f"{each}.{name}", default, scope=scope)
        return default

    for each in kinds:
        rules = () if kind == "LocalSelfAttention" else _UNSUPPORTED
        if kind == IN_ATTENTION:
            # With experts the logits are scaled.
            rules = tuple(rule for rule in rules if rule[0] != "fold_scaling_into_initializer")
        source.require_defaults(each, rules, scope=scope)
    arguments = get("attention_kwargs", None) or {}
    extra_logit = arguments.get("extra_logit") if isinstance(arguments, dict) else ...
    if not isinstance(extra_logit, float | int | None) or set(arguments) - {"extra_logit"}:
        why = "only extra_logit, a number, is supported"
        source.refuse(f"{kind}.attention_kwargs", why, scope=scope)
        extra_logit = None
    heads: Parameters = {
        "num_memory_heads": get("num_memory_heads", 0) or None,
        "num_heads": get("num_heads", 8),
        "d_kv": get("key_value_size", 128),
        # Experts have an argument of their own.
        "shared_kv": kind != IN_ATTENTION and get("shared_kv", default=False),
        "extra_logit": extra_logit,
    }
    return {"transformer.AttentionHeads": heads, cls: {"dropout_rate": get("dropout_rate", 0.0)}}
