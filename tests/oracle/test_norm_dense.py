"""Normalisation and dense layers equal the original, forward and gradient, under every layout.

All 31 cases of `norm_dense.npz` run. Where the original makes variables, the layer's are set to the
reference values.
"""

from __future__ import annotations

from typing import Any

import pytest

from mtfrun import layers, mtf
from mtfrun.extras.mesh_tensorflow import parity
from mtfrun.models import transformer
from tests.layouts import FLOAT32_OP_TOLERANCE
from tests.oracle.layer_case import (
    Tensors,
    assert_equals_reference,
    inputs_of,
    layouts_of,
    outputs_and_gradients,
    set_variables,
    where,
)
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("norm_dense")

# Through an epsilon of 1e-9 and 12 entries a channel: (x - mean) * rsqrt(variance) cancels.
BATCH_NORM_GRADIENT_TOLERANCE = 1e-4


def _dims(texts: list[str] | None) -> list[mtf.Dimension]:
    return [mtf.convert_to_dimension(text.replace("=", ":")) for text in texts or []]


def _layer(case: ReferenceCase, mesh: mtf.Mesh, x: mtf.Shape) -> tuple[Any, dict[str, str]]:
    """Returns the layer of a case, and the reference name of each of its variables."""
    hparams = case.hparams
    if case.name.startswith("layer_norm"):
        names = {"scale": "ln/layer_norm/layer_norm_scale", "bias": "ln/layer_norm/layer_norm_bias"}
        d = x.get_dim_by_name("d")
        return layers.LayerNorm(mesh, d, epsilon=hparams["epsilon"]), names
    if case.name.startswith("batch_norm"):
        reduced = x.dims[hparams["dims_idx_start"] : hparams["dims_idx_end"]]
        features = [dim for dim in x if dim not in reduced]
        layer = layers.BatchNorm(
            mesh, features, momentum=hparams["momentum"], epsilon=hparams["epsilon"]
        )
        names = {
            "scale": "bn/batch_norm_scale",
            "bias": "bn/batch_norm_bias",
            "moving_mean": "bn/bn_moving_mean",
            "moving_variance": "bn/bn_moving_variance",
        }
        return layer, names
    if case.name.startswith("dense_product"):
        activations = hparams["activations"]
        activations = [activations] if isinstance(activations, str) else activations
        functions = [None if a == "linear" else getattr(mtf, a) for a in activations]
        ff = mtf.Dimension("ff", case.arrays["out/y"].shape[-1])
        d = x.get_dim_by_name("d")
        layer = layers.DenseProduct(mesh, [d], [ff], activations=functions)
        if len(functions) == 1:
            return layer, {"factors/0/kernel": "wi/kernel"}
        return layer, {f"factors/{i}/kernel": f"wi_{i}/kernel" for i in range(len(functions))}
    if case.name.startswith("dense_relu_dense"):
        layer = transformer.FeedForward(mesh, x.get_dim_by_name("d"), d_ff=hparams["hidden"])
        return layer, {"wi/kernel": "drd/wi/kernel", "wo/kernel": "drd/wo/kernel"}
    activation = hparams["activation"]
    layer = layers.Dense(
        mesh,
        _dims(hparams["reduced_dims"]) or x.dims[-1:],
        _dims(hparams["new_dims"]),
        expert_dims=_dims(hparams["expert_dims"]),
        use_bias=hparams["use_bias"],
        activation=getattr(mtf, activation) if activation else None,
    )
    return layer, {"kernel": "dense/kernel", **({"bias": "dense/bias"} if layer.bias else {})}


def _run_layer(case: ReferenceCase, mesh: mtf.Mesh) -> tuple[Tensors, dict[str, Tensors]]:
    inputs = inputs_of(mesh, case)
    layer, names = _layer(case, mesh, inputs["x"].shape)
    set_variables(layer, {path: case.arrays[f"w/{name}"] for path, name in names.items()})
    variables = {names[path]: variable for path, variable in layer.named_variables().items()}

    def run(tensors: Tensors) -> Tensors:
        collector = layers.Collector()
        call = layers.Call(training=case.hparams.get("is_training", False), collector=collector)
        y = layer(tensors["x"], call)
        updates = collector.contents.updates
        return {"y": y} | {f"new_{path}": value for path, value in updates.items()}

    other_inputs = {name: x for name, x in inputs.items() if name not in variables}
    return outputs_and_gradients(run, other_inputs, variables)


def _run(case: ReferenceCase, mesh: mtf.Mesh) -> tuple[Tensors, dict[str, Tensors]]:
    if not case.name.startswith(("corr", "compress_mean")):
        return _run_layer(case, mesh)

    def call(tensors: Tensors) -> Tensors:
        x = tensors["x"]
        if case.name.startswith("corr"):
            return {"y": parity.corr(x, x.shape.get_dim_by_name("c"))}
        length = x.shape.get_dim_by_name("l")
        return {"y": parity.compress_mean(x, length, case.hparams["compression_factor"])}

    return outputs_and_gradients(call, inputs_of(mesh, case))


@pytest.mark.parametrize(
    "name, mesh_shape, layout", where({name: layouts_of(case) for name, case in CASES.items()})
)
def test_layer_equals_the_original(name: str, mesh_shape: str, layout: str) -> None:
    case = CASES[name]
    outputs, gradients = _run(case, mtf.Mesh(mesh_shape, layout))
    trains_batch_norm = name.startswith("batch_norm") and case.hparams["is_training"]
    tolerance = BATCH_NORM_GRADIENT_TOLERANCE if trains_batch_norm else None
    assert_equals_reference(case, outputs, gradients, FLOAT32_OP_TOLERANCE, tolerance)


def test_all_cases_are_there_and_nearly_all_are_split() -> None:
    assert len(CASES) == 31
    assert [name for name, case in CASES.items() if len(layouts_of(case)) < 2] == []
