"""Rarer layers of Mesh TensorFlow in small models: logits, losses, gradients, greedy decodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import parity
from mtfrun.models import transformer as t
from mtfrun.models.transformer.token_model import TokenModel
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import decodes_of, greedy, on_one_and_several, to_the_end
from tests.oracle.reference_models import mesh_for, reference_gradient, run, with_weights

CASES = reference_cases("transformer_layers")
DECODES, _ = decodes_of(CASES)
_DYNAMIC = {"x": "query", "m": "memory"}


def _talking_heads(hparams: dict[str, Any]) -> t.TalkingHeads:
    key, softmax, value = (
        [mtf.Dimension(*pair) for pair in hparams[f"{name}_heads_dims"]]
        for name in ("key", "softmax", "value")
    )
    dynamic = hparams.get("dynamic_projections", [])
    return t.TalkingHeads(
        *(key, softmax, value),
        d_k=hparams["key_size"],
        d_v=hparams["value_size"],
        dynamic_logits=[_DYNAMIC[each[0]] for each in dynamic if each.endswith("l")],
        dynamic_weights=[_DYNAMIC[each[0]] for each in dynamic if each.endswith("w")],
    )


def _convolution(name: str, hparams: dict[str, Any], *, masks_start: bool) -> Callable[..., Any]:
    activation = getattr(mtf, hparams["activation"]) if "activation" in hparams else None
    if name == "Conv1DLayer":
        size = hparams["filter_size"]
        window = t.ConvolutionWindow(-((size - 1) // 2), size // 2)
        return functools.partial(t.Convolution, window=window, activation=activation)
    window = t.ConvolutionWindow(
        hparams["min_relative_pos"], hparams["max_relative_pos"], masks_start=masks_start
    )
    name = hparams.get("attention_type", name)
    filters: Callable[..., Any] = t.TrainedFilters
    if name.startswith(("Lightweight", "lightweight", "Dynamic", "dynamic")):
        is_dynamic = name.lower().startswith("dynamic")
        filters = functools.partial(
            t.DynamicFilters if is_dynamic else t.LightweightFilters,
            repeats=hparams.get("num_unique_depth_filters", 1),
        )
    depthwise = functools.partial(
        t.DepthwiseConvolution, window=window, filters=filters, activation=activation
    )
    if "attention_type" in hparams:
        return functools.partial(t.GatedConvolution, convolution=depthwise)
    return depthwise


def _synthesizer(hparams: dict[str, Any], sizes: dict[str, Any]) -> Callable[..., t.Synthesizer]:
    kind, *combination = hparams["synthesize_mode"].split("_", 1)
    logits = t.SyntheticLogits(
        kind,
        {"plus": "added", "plus_alpha": "gated"}.get("".join(combination)),
        max_length=hparams.get("attention_kwargs", {}).get("max_length", 512),
    )
    return functools.partial(
        t.Synthesizer, num_heads=sizes["num_heads"], d_kv=sizes["d_kv"], logits=logits
    )


def _layer(entry: Any, sizes: dict[str, Any], *, masks_start: bool) -> Callable[..., t.Sublayer]:
    """Returns our class for (class of the original, arguments), or for a name alone."""
    name, hparams = (entry, {}) if isinstance(entry, str) else entry
    heads = t.AttentionHeads(hparams.get("num_heads", sizes["num_heads"]), d_kv=sizes["d_kv"])
    # In other stacks the layers have equally many heads, and so one table.
    has_own_bias = name == "SelfAttention" and bool(hparams) and "stack" not in sizes
    relative = functools.partial(t.RelativePositionBias, num_heads=heads.num_heads, num_buckets=8)
    talking = functools.partial(_talking_heads, hparams)
    if "Conv" in name:
        return _convolution(name, hparams, masks_start=masks_start)
    if name == "ParallelLayer":
        layers = [_layer(each, sizes, masks_start=masks_start) for each in hparams["layer_classes"]]
        factor = functools.partial(t.ConstantFactor, factor=len(layers) ** -0.5)
        return functools.partial(t.Parallel, layers=layers, transforms=[t.CallLayer, factor])
    classes: dict[str, Callable[[], Callable[..., t.Sublayer]]] = {
        "DenseReluDense": lambda: functools.partial(
            t.FeedForward, d_ff=hparams.get("hidden_size", sizes["d_ff"])
        ),
        "SelfAttention": lambda: functools.partial(
            t.SelfAttention, heads=heads, relative_bias=relative if has_own_bias else None
        ),
        "ProductKeyValueMemory": lambda: functools.partial(
            t.ProductKeyMemory,
            num_keys=hparams["n_keys"],
            num_heads=hparams["n_heads"],
            key_size=hparams["key_size"],
            num_selected=hparams["knn"],
        ),
        "TransparentEncDecAttention": lambda: functools.partial(
            t.EncoderDecoderAttention, heads=heads
        ),
        "EncDecAttention": lambda: functools.partial(t.EncoderDecoderAttention, heads=heads),
        "Synthesizer": lambda: _synthesizer(hparams, sizes),
        "TalkingHeadsSelfAttention": lambda: functools.partial(
            t.TalkingHeadsSelfAttention, heads=talking()
        ),
        "TalkingHeadsEncDecAttention": lambda: functools.partial(
            t.TalkingHeadsEncoderDecoderAttention, heads=talking()
        ),
    }
    return classes[name]()


def _stack(
    layers: list[Any], sizes: dict[str, Any], *, masks_start: bool
) -> Callable[..., t.Stack]:
    arguments = [{} if isinstance(entry, str) else entry[1] for entry in layers]
    biases = [each for each in arguments if each.get("relative_attention_type") == "bias_shared"]
    heads = {each.get("num_heads", sizes["num_heads"]) for each in biases}
    relative = functools.partial(t.RelativePositionBias, num_heads=2, num_buckets=8)
    stack: Callable[..., t.Stack] = parity.TiedBiasStack if len(heads) > 1 else t.Stack
    decoder = [entry if isinstance(entry, str) else entry[0] for entry in sizes["decoder"]]
    if "TransparentEncDecAttention" in decoder:
        number = sizes["num_layers"]
        stack = t.TransparentEncoder
        if "TransparentEncDecAttention" in str(layers):
            stack = functools.partial(t.TransparentDecoder, mixture=t.EncoderMixture(number))
    around: list[Any] = [t.RMSNorm, t.MaskPadding, t.CallLayer]
    transforms = t.StackTransforms(layer=[*around, t.Residual])
    if sizes.get("stack") == "ReversibleLayerStack":
        stack, transforms = t.ReversibleStack, t.StackTransforms(layer=around)
    if sizes.get("stack") == "UTLayerStack":
        stack = functools.partial(t.UniversalStack, recurrence=_recurrence(sizes["universal"]))
        transforms = t.StackTransforms(
            layer=[t.MaskPadding, t.LayerNorm, t.CallLayer, t.Residual],
            final=[t.LayerNorm, t.MaskPadding],
        )
    return functools.partial(
        stack,
        num_layers=sizes["num_layers"],
        layers=[_layer(entry, sizes, masks_start=masks_start) for entry in layers],
        transforms=transforms,
        relative_bias=relative if len(heads) == 1 else None,
    )


def _softmax(hparams: dict[str, Any]) -> Callable[..., t.TokenSoftmax]:
    if "softmax" not in hparams:
        return t.TokenSoftmax
    name, arguments = hparams["softmax"]
    if name == "MixtureOfSoftmaxes":
        return functools.partial(t.MixtureOfSoftmaxes, **arguments)
    gates = t.MixtapeGates(arguments["gate_embedding_size"], arguments["frequent_token_fraction"])
    return functools.partial(t.Mixtape, gates=gates)


def _recurrence(hparams: dict[str, Any]) -> t.Recurrence:
    halts = hparams["recurrence_type"] == "act"
    num_trained = hparams["act_max_steps" if halts else "num_rec_steps"]
    combination = {"basic": "interpolated"}.get(hparams["act_type"], hparams["act_type"])
    halting = functools.partial(
        t.Halting, epsilon=hparams["act_epsilon"], combination=combination, loss_weight=0.0
    )
    return t.Recurrence(
        # The original computes one step more.
        num_trained + halts,
        signals=functools.partial(
            t.StepSignals, steps="trained", positions=False, num_trained=num_trained
        ),
        halting=halting if halts else None,
    )


@functools.cache
def _model(name: str, several: bool, *, masks_start: bool = True) -> tuple[TokenModel, mtf.Mesh]:
    case = CASES[name]
    mesh, hparams = mesh_for(case, several), case.hparams
    model = t.EncoderDecoder(
        mesh,
        hparams["vocab"],
        embedding=t.TokenEmbedding(
            d_model=hparams["d_model"],
            position=None,
            tied_softmax="softmax" in hparams,
            softmax=_softmax(hparams),
        ),
        loss=t.TokenLoss(z_loss=1e-4),
        encoder=_stack(hparams["encoder"], hparams, masks_start=False),
        decoder=_stack(hparams["decoder"], hparams, masks_start=masks_start),
    )
    return with_weights(model, case), mesh


def _features(case: ReferenceCase) -> dict[str, np.ndarray]:
    return {name: case.arrays[f"in/{name}"] for name in ("inputs", "targets")}


# The others are slow, on several devices too.
QUICK = ("talking_heads_shared",)


def _slow_unless_quick(parameters: list[Any]) -> list[Any]:
    """Returns the parameters of a test; all but the quick cases on one device are slow."""
    return [
        p
        if p.values[0] in QUICK or pytest.mark.slow in p.marks
        else pytest.param(*p.values, marks=pytest.mark.slow)
        for p in parameters
    ]


@pytest.mark.parametrize(
    "name, several", _slow_unless_quick(on_one_and_several(CASES, lambda name: False))
)
def test_logits_losses_and_gradients(name: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    logits, training, gradients, evaluation = run(
        model, mesh, _features(case), with_gradients=True, with_evaluation=True
    )
    expected = case.arrays["out/logits_eval"]
    is_token = case.arrays["in/targets"] != 0
    assert_close(logits[is_token], expected[is_token], FLOAT32_MODEL_TOLERANCE)
    assert evaluation is not None
    size = case.arrays["in/targets"].size
    losses: list[Any] = [training, evaluation]  # of arrays
    for loss, key in zip(losses, ("out/loss_train", "out/loss_eval"), strict=True):
        assert_close(loss.total / size, case.arrays[key], FLOAT32_MODEL_TOLERANCE)
    variables = model.named_variables()
    for path, gradient in gradients.items():
        expected = reference_gradient(case, path, variables)
        assert_close(gradient / size, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "name, decode, several", _slow_unless_quick(on_one_and_several(DECODES, lambda name: False))
)
def test_greedy_decodes(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    # While it decodes, the original's convolutions see the id 0 before the first one.
    model, mesh = _model(name, several, masks_start=False)
    expected = case.arrays[f"out/{decode}_ids"]
    ids = greedy(model, mesh, np.zeros_like(expected), case.arrays["in/inputs"])
    np.testing.assert_array_equal(to_the_end(ids), to_the_end(expected))
