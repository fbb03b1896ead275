"""Rarer layers of Mesh TensorFlow in small models: logits, losses, gradients, greedy decodes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import parity, zoo
from mtfrun.layers import Embedding, TokenVectors
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.layer_classes import layer_class
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import decodes_of, greedy, on_one_and_several, to_the_end
from tests.oracle.reference_models import mesh_for, reference_gradient, run, with_weights

CASES = reference_cases("transformer_layers")
DECODES, _ = decodes_of(CASES)
Z_LOSS = 1e-4


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
        stack = zoo.TransparentEncoder
        if "TransparentEncDecAttention" in str(layers):
            stack = functools.partial(zoo.TransparentDecoder, mixture=zoo.EncoderMixture(number))
    around: list[Any] = [t.RMSNorm, t.MaskPadding, t.CallLayer]
    transforms = t.StackTransforms(layer=[*around, t.Residual])
    if sizes.get("stack") == "ReversibleLayerStack":
        stack, transforms = zoo.ReversibleStack, t.StackTransforms(layer=around)
    if "funnel" in sizes and layers is sizes["encoder"]:
        funnel = zoo.Funnel(
            sizes["funnel"]["block_param_size"],
            kind=sizes["funnel"]["pooling_type"],
            across_documents=True,
        )
        return functools.partial(
            zoo.FunnelStack,
            funnel=funnel,
            layers=[layer_class(entry, sizes, masks_start=masks_start) for entry in layers],
            transforms=transforms,
            relative_bias=relative,
        )
    if sizes.get("stack") == "UTLayerStack":
        stack = functools.partial(zoo.UniversalStack, recurrence=_recurrence(sizes["universal"]))
        transforms = t.StackTransforms(
            layer=[t.MaskPadding, t.LayerNorm, t.CallLayer, t.Residual],
            final=[t.LayerNorm, t.MaskPadding],
        )
    return functools.partial(
        stack,
        num_layers=sizes["num_layers"],
        layers=[layer_class(entry, sizes, masks_start=masks_start) for entry in layers],
        transforms=transforms,
        relative_bias=relative if len(heads) == 1 else None,
    )


def _embedding(hparams: dict[str, Any]) -> t.TokenEmbedding:
    softmax, clusters = _softmax(hparams), None
    table: Callable[..., TokenVectors] = Embedding
    name, arguments = hparams.get("softmax", ("", {}))
    if "clusters" in arguments:
        sizes = [each["token_count"] for each in arguments["clusters"]]
        clusters = zoo.VocabularyClusters(
            [int(end) for end in np.cumsum(sizes)[:-1]],
            [each["embedding_size"] for each in arguments["clusters"]],
            adaptive_softmax=name.startswith("AdaptiveSoftmax"),
        )
    if "inner_dimension_size" in arguments:
        clusters = zoo.VocabularyClusters([], [arguments["inner_dimension_size"]])
    if clusters is not None:
        softmax = functools.partial(zoo.ClusterSoftmax, tail_z_loss=Z_LOSS)
        table = functools.partial(zoo.AdaptiveEmbedding, clusters=clusters)
    return t.TokenEmbedding(
        d_model=hparams["d_model"],
        position=None,
        tied_softmax="softmax" in hparams or "ensemble" in hparams,
        softmax=softmax,
        table=table,
    )


def _softmax(hparams: dict[str, Any]) -> Callable[..., t.TokenSoftmax]:
    if "softmax" not in hparams:
        return t.TokenSoftmax
    name, arguments = hparams["softmax"]
    if name == "MixtureOfSoftmaxes":
        return functools.partial(zoo.MixtureOfSoftmaxes, **arguments)
    if name != "Mixtape":
        return t.TokenSoftmax
    gates = zoo.MixtapeGates(arguments["gate_embedding_size"], arguments["frequent_token_fraction"])
    return functools.partial(zoo.Mixtape, gates=gates)


def _recurrence(hparams: dict[str, Any]) -> zoo.Recurrence:
    halts = hparams["recurrence_type"] == "act"
    num_trained = hparams["act_max_steps" if halts else "num_rec_steps"]
    combination = {"basic": "interpolated"}.get(hparams["act_type"], hparams["act_type"])
    halting = functools.partial(
        zoo.Halting, epsilon=hparams["act_epsilon"], combination=combination, loss_weight=0.0
    )
    return zoo.Recurrence(
        # The original computes one step more.
        num_trained + halts,
        signals=functools.partial(
            zoo.StepSignals, steps="trained", positions=False, num_trained=num_trained
        ),
        halting=halting if halts else None,
    )


@functools.cache
def _model(name: str, several: bool, *, masks_start: bool = True) -> tuple[TokenModel, mtf.Mesh]:
    case = CASES[name]
    mesh, targets = mesh_for(case, several), case.arrays["in/targets"]
    # The original adds a mixture's loss to a mean over all positions, padding included.
    hparams = {**case.hparams, "loss_factor": targets.size / np.count_nonzero(targets)}
    make = functools.partial(
        t.EncoderDecoder,
        embedding=_embedding(hparams),
        loss=t.TokenLoss(z_loss=Z_LOSS),
        encoder=_stack(hparams["encoder"], hparams, masks_start=False),
        decoder=_stack(hparams["decoder"], hparams, masks_start=masks_start),
    )
    model: TokenModel = make(mesh, vocabulary_size=hparams["vocab"])
    if "ensemble" in hparams:
        sizes = {"size": hparams["ensemble"], "vocabulary_size": hparams["vocab"]}
        model = zoo.make_ensemble(mesh, model=make, **sizes)
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
    if name == "adaptive_softmax":
        # The original's have the normaliser of the first softmax.
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    is_token = case.arrays["in/targets"] != 0
    assert_close(logits[is_token], expected[is_token], FLOAT32_MODEL_TOLERANCE)
    assert evaluation is not None
    size = case.arrays["in/targets"].size
    losses: list[Any] = [training, evaluation]  # of arrays
    if "ensemble" in case.hparams:
        losses.pop()  # the original's is the sum of the members' losses, as in training
    for loss, key in zip(losses, ("out/loss_train", "out/loss_eval"), strict=False):
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
