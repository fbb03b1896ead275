"""Our classes for the rarer layers of Mesh TensorFlow, by name and arguments."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from mtfrun import mtf
from mtfrun.extras import huggingface
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models import transformer as t

_DYNAMIC = {"x": "query", "m": "memory"}


def _talking_heads(hparams: dict[str, Any]) -> zoo.TalkingHeads:
    key, softmax, value = (
        [mtf.Dimension(*pair) for pair in hparams[f"{name}_heads_dims"]]
        for name in ("key", "softmax", "value")
    )
    dynamic = hparams.get("dynamic_projections", [])
    return zoo.TalkingHeads(
        *(key, softmax, value),
        d_k=hparams["key_size"],
        d_v=hparams["value_size"],
        dynamic_logits=[_DYNAMIC[each[0]] for each in dynamic if each.endswith("l")],
        dynamic_weights=[_DYNAMIC[each[0]] for each in dynamic if each.endswith("w")],
    )


def _convolution(name: str, hparams: dict[str, Any], *, masks_start: bool) -> Callable[..., Any]:
    if name == "EncoderConvolutionalLayer":
        return zoo.EncoderConvolutions
    if name == "DecoderConvolutionalLayer":
        return functools.partial(zoo.DecoderConvolutions, masks_start=masks_start)
    activation = getattr(mtf, hparams["activation"]) if "activation" in hparams else None
    if name == "Conv1DLayer":
        size = hparams["filter_size"]
        window = zoo.ConvolutionWindow(-((size - 1) // 2), size // 2)
        return functools.partial(zoo.Convolution, window=window, activation=activation)
    window = zoo.ConvolutionWindow(
        hparams["min_relative_pos"], hparams["max_relative_pos"], masks_start=masks_start
    )
    name = hparams.get("attention_type", name)
    filters: Callable[..., Any] = zoo.TrainedFilters
    if name.startswith(("Lightweight", "lightweight", "Dynamic", "dynamic")):
        is_dynamic = name.lower().startswith("dynamic")
        filters = functools.partial(
            zoo.DynamicFilters if is_dynamic else zoo.LightweightFilters,
            repeats=hparams.get("num_unique_depth_filters", 1),
        )
    depthwise = functools.partial(
        zoo.DepthwiseConvolution, window=window, filters=filters, activation=activation
    )
    if "attention_type" in hparams:
        return functools.partial(zoo.GatedConvolution, convolution=depthwise)
    return depthwise


def _synthesizer(hparams: dict[str, Any], sizes: dict[str, Any]) -> Callable[..., zoo.Synthesizer]:
    kind, *combination = hparams["synthesize_mode"].split("_", 1)
    logits = zoo.SyntheticLogits(
        kind,
        {"plus": "added", "plus_alpha": "gated"}.get("".join(combination)),
        max_length=hparams.get("attention_kwargs", {}).get("max_length", 512),
    )
    return functools.partial(
        zoo.Synthesizer, num_heads=sizes["num_heads"], d_kv=sizes["d_kv"], logits=logits
    )


_BY_EXPERTS = {"qkv": ["query", "key_value"], "q": ["query"], "kv": ["key_value"]}


def _mixture(hparams: dict[str, Any], sizes: dict[str, Any]) -> Callable[..., moe.MoE1D]:
    return functools.partial(
        moe.MoE1D,
        num_experts=hparams["num_experts"],
        router=functools.partial(moe.Router, gate=moe.Switch()),
        capacity=moe.Capacity(
            min_expert_capacity=hparams["min_expert_capacity"], group_size=hparams["group_size"]
        ),
        loss_coef=hparams["loss_coef"] * sizes["loss_factor"],
    )


def _experts_attention(hparams: dict[str, Any], sizes: dict[str, Any]) -> Callable[..., Any]:
    projections = zoo.ExpertProjections(
        _BY_EXPERTS[hparams["expert_computation"]],
        mixture=_mixture(hparams, sizes),
        experts=functools.partial(moe.Experts, hidden_size=hparams["hidden_size"]),
    )
    heads = t.AttentionHeads(sizes["num_heads"], d_kv=hparams["key_value_size"])
    return functools.partial(zoo.ExpertsSelfAttention, heads=heads, projections=projections)


def _heterogeneous_experts(hparams: dict[str, Any], sizes: dict[str, Any]) -> Callable[..., Any]:
    number = hparams["num_experts"]
    of_experts = [
        (int(number * group["percent_number"]), group["width"], group["layers"])
        for group in hparams["heterogeneous_mask_info"]
    ]
    experts = functools.partial(zoo.HeterogeneousExperts, sizes=of_experts)
    return functools.partial(_mixture(hparams, sizes), experts=experts)


def layer_class(
    entry: Any, sizes: dict[str, Any], *, masks_start: bool
) -> Callable[..., t.Sublayer]:
    """Returns our class for (class of the original, arguments), or for a name alone."""
    name, hparams = (entry, {}) if isinstance(entry, str) else entry
    heads = t.AttentionHeads(
        hparams.get("num_heads", sizes["num_heads"]),
        hparams.get("num_memory_heads"),
        d_kv=sizes["d_kv"],
        shared_kv=hparams.get("shared_kv", False),
        extra_logit=hparams.get("attention_kwargs", {}).get("extra_logit"),
    )
    twice = dataclasses.replace(heads, num_heads=2 * heads.num_heads)
    # In other stacks the layers have equally many heads, and so one table.
    has_one_kind = "stack" in sizes or "funnel" in sizes
    has_own_bias = name == "SelfAttention" and bool(hparams) and not has_one_kind
    relative = functools.partial(t.RelativePositionBias, num_heads=heads.num_heads, num_buckets=8)
    talking = functools.partial(_talking_heads, hparams)
    if "Conv" in name:
        return _convolution(name, hparams, masks_start=masks_start)
    if name == "ParallelLayer":
        layers = [
            layer_class(each, sizes, masks_start=masks_start) for each in hparams["layer_classes"]
        ]
        factor = functools.partial(t.ConstantFactor, factor=len(layers) ** -0.5)
        return functools.partial(
            huggingface.Parallel, layers=layers, transforms=[t.CallLayer, factor]
        )
    classes: dict[str, Callable[[], Callable[..., t.Sublayer]]] = {
        "DenseReluDense": lambda: functools.partial(
            t.FeedForward,
            d_ff=hparams.get("hidden_size", sizes["d_ff"]),
            activation=getattr(mtf, hparams.get("activation", "relu")),
        ),
        "GatedLinearUnitLayer": lambda: zoo.GatedLinearUnit,
        "DecoderAttentionLayer": lambda: functools.partial(
            huggingface.Parallel,
            layers=[
                functools.partial(t.SelfAttention, heads=twice),
                functools.partial(t.EncoderDecoderAttention, heads=heads),
            ],
        ),
        "SelfAttention": lambda: functools.partial(
            t.SelfAttention, heads=heads, relative_bias=relative if has_own_bias else None
        ),
        "ProductKeyValueMemory": lambda: functools.partial(
            zoo.ProductKeyMemory,
            num_keys=hparams["n_keys"],
            num_heads=hparams["n_heads"],
            key_size=hparams["key_size"],
            num_selected=hparams["knn"],
        ),
        **dict.fromkeys(
            ("TransparentEncDecAttention", "EncDecAttention"),
            lambda: functools.partial(t.EncoderDecoderAttention, heads=heads),
        ),
        "Synthesizer": lambda: _synthesizer(hparams, sizes),
        "ExpertsSelfAttention": lambda: _experts_attention(hparams, sizes),
        "HeterogeneousMoE1D": lambda: _heterogeneous_experts(hparams, sizes),
        "TalkingHeadsSelfAttention": lambda: functools.partial(
            zoo.TalkingHeadsSelfAttention, heads=talking()
        ),
        "TalkingHeadsEncDecAttention": lambda: functools.partial(
            zoo.TalkingHeadsEncoderDecoderAttention, heads=talking()
        ),
    }
    return classes[name]()
