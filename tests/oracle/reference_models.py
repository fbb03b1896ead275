"""Builds the model of a reference case, with the weights of the case, and runs it."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow.names import sources_of
from mtfrun.models import Loss, moe
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens.token_model import TokenModel
from mtfrun.rundir.init_checkpoint import InitCheckpoint, find_source, fit_value
from tests.layouts import ONE_DEVICE
from tests.oracle.reference_cases import ReferenceCase

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


def layout_for(case: ReferenceCase) -> tuple[str, str]:
    """Returns a mesh of two axes that divides what the case's sizes allow, and its layout."""
    batch = case.arrays["in/targets"].shape[0]
    heads = case.hparams["num_heads"]
    data = next(n for n in (2, 3) if batch % n == 0)
    rules = ["batch:data", "d_ff:model"]
    model = 2
    if heads % model == 0:
        rules.append("heads:model")
    if case.hparams.get("moe", {}).get("num_experts", 1) % data == 0:
        rules.append("experts:data")
    return f"data:{data},model:{model}", ";".join(rules)


def _mixture(case: ReferenceCase) -> Callable[..., moe.MoE1D]:
    """Returns the mixture of experts of a case."""
    hp = case.hparams["moe"]
    gates: dict[str, moe.Gate] = {
        "switch": moe.Switch(),
        "top_2": moe.Top2(second_policy_training=moe.All(), second_policy_evaluation=moe.All()),
    }
    # The original adds the mixture's loss to a mean over all positions, padding included; here the
    # loss is a sum over the positions that are trained on.
    targets = case.arrays["in/targets"]
    return functools.partial(
        moe.MoE1D,
        num_experts=hp["num_experts"],
        router=functools.partial(moe.Router, gate=gates[hp["moe_gating"]]),
        experts=functools.partial(moe.Experts, hidden_size=hp["hidden_size"]),
        loss_coef=hp["loss_coef"] * targets.size / np.count_nonzero(targets),
        capacity=moe.Capacity(
            evaluation=hp.get("capacity_factor_eval", 2.0),
            min_expert_capacity=hp["min_expert_capacity"],
            group_size=hp["group_size"],
        ),
    )


def transformer_model(mesh: mtf.Mesh, case: ReferenceCase, **options: Any) -> TokenModel:
    """Returns the model of a case of mesh_tensorflow.transformer."""
    hp = case.hparams
    heads = t.AttentionHeads(hp["num_heads"], d_kv=hp["d_kv"])
    relative = functools.partial(
        t.RelativePositionBias, num_heads=hp["num_heads"], num_buckets=8, max_distance=128
    )
    kind = hp.get("relative", "bias_shared")
    attention = functools.partial(
        t.SelfAttention,
        heads=dataclasses.replace(heads, num_memory_heads=hp.get("num_memory_heads")),
        relative_bias=relative if kind == "bias" else None,
    )
    activation = hp.get("activation", "relu")
    feed_forward: Callable[..., Any]
    if isinstance(activation, list):
        gate, _ = activation
        feed_forward = functools.partial(
            t.GatedFeedForward, d_ff=hp["d_ff"], activation=getattr(mtf, gate)
        )
    else:
        feed_forward = functools.partial(
            t.FeedForward,
            d_ff=hp["d_ff"],
            activation=getattr(mtf, activation),
            use_bias=hp.get("use_bias", False),
        )
    stack = functools.partial(
        t.Stack,
        num_layers=hp["num_layers"],
        relative_bias=relative if kind == "bias_shared" else None,
    )
    if "moe" in hp:
        feed_forward = _mixture(case)
        # In the original padding is 0 before every layer, and counts in the load of experts.
        stack = functools.partial(
            stack,
            transforms=t.StackTransforms(layer=[t.MaskPadding, t.RMSNorm, t.CallLayer, t.Residual]),
        )
    position: Callable[..., Any] | None = t.PositionalEmbedding if hp.get("positional") else None
    if hp.get("sinusoid"):
        position = t.SinusoidPositions
    arguments: dict[str, Any] = {
        "embedding": t.TokenEmbedding(
            d_model=hp["d_model"],
            max_length=hp.get("max_length", 16),
            position=position,
            tied_softmax=hp.get("shared_softmax", True),
        ),
        "loss": t.TokenLoss(label_smoothing=hp.get("label_smoothing", 0.0), z_loss=1e-4),
    } | options
    vocabulary_size = -(-hp["vocab"] // hp["vocab_divisor"]) * hp["vocab_divisor"]
    if hp["type"] == "lm":
        return t.DecoderOnly(
            mesh,
            vocabulary_size,
            stack=functools.partial(stack, layers=[attention, feed_forward]),
            prefix=hp.get("input_full_attention", False),
            loss_on_targets_only=hp.get("loss_on_targets_only", False),
            **arguments,
        )
    to_encoder = functools.partial(t.EncoderDecoderAttention, heads=heads)
    return t.EncoderDecoder(
        mesh,
        vocabulary_size,
        encoder=functools.partial(stack, layers=[attention, feed_forward]),
        decoder=functools.partial(stack, layers=[attention, to_encoder, feed_forward]),
        **arguments,
    )


def mesh_for(case: ReferenceCase, several: bool) -> mtf.Mesh:
    """Returns one device, or several that divide the case's sizes."""
    return mtf.Mesh(*layout_for(case)) if several else mtf.Mesh(ONE_DEVICE)


def save_weights(weights: Mapping[str, Any], prefix: str | pathlib.Path) -> None:
    """Writes a checkpoint of the original's form."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=[tf.constant(value) for value in weights.values()],
    )


def with_weights(model: TokenModel, case: ReferenceCase) -> TokenModel:
    """Returns the model with the case's weights, imported from a checkpoint of them."""
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/model.ckpt-0"
        save_weights(case.with_role("w"), prefix)
        mtf.initialize(model)
        report = InitCheckpoint(prefix)(model.named_variables())
    assert report is not None
    assert not report.problems()
    return model


def on_mesh(mesh: mtf.Mesh, features: Mapping[str, np.ndarray]) -> dict[str, mtf.Tensor]:
    """Returns arrays [batch, length] as features."""
    return {
        name: mtf.import_tf_tensor(
            mesh, np.asarray(x, np.int32), [("batch", x.shape[0]), ("length", x.shape[1])]
        )
        for name, x in features.items()
    }


def run(
    model: TokenModel,
    mesh: mtf.Mesh,
    features: Mapping[str, np.ndarray],
    *,
    with_gradients: bool = False,
    with_evaluation: bool = False,
) -> tuple[np.ndarray, Loss, dict[str, np.ndarray], Loss | None]:
    """Returns logits, the loss of training, gradients of its total, and the loss of evaluation.

    Gradients and evaluation are left out by default: a program for several devices takes seconds to
    compile.
    """
    variables = model.named_variables()

    def compute(features: dict[str, mtf.Tensor]) -> Any:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(0))
            return loss.total, loss

        if with_gradients:
            (_, training), gradients = mtf.value_and_gradients(total, variables)
        else:
            training, gradients = total()[1], {}
        evaluation = model.loss(features, training=False) if with_evaluation else None
        return model.logits(features), training, gradients, evaluation

    return mtf.to_numpy(mtf.function(compute)(on_mesh(mesh, features)))


def reference_gradient(
    case: ReferenceCase, path: str, variables: Mapping[str, mtf.Variable]
) -> np.ndarray:
    """Returns the original's gradient for one of our variables, in our shape."""
    return reference_value(case.with_role("grad"), path, variables)


def reference_value(
    values: Mapping[str, np.ndarray], path: str, variables: Mapping[str, mtf.Variable]
) -> np.ndarray:
    """Returns the value of one of our variables from values by the original's names."""
    match = find_source(sources_of(path, variables), list(values))
    assert match is not None, path
    name, source = match
    value = fit_value(values[name], source, variables[path].shape)
    assert isinstance(value, np.ndarray), value
    return value


def padded_to(array: np.ndarray, length: int) -> np.ndarray:
    """Returns rows padded with 0 to a length."""
    return np.pad(array, [(0, 0), (0, length - array.shape[1])])
