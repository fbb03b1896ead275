"""Mixtures of every activation and output dimension against formulas in numpy."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall, Sublayer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import (
    BATCH,
    D_MODEL,
    LAYOUT,
    LENGTH,
    inputs,
    one_level,
    two_levels,
)

A_SLOT_FOR_ALL = moe.Capacity(training=8.0, evaluation=8.0, second_level=8.0, group_size=12)
# Of the size of d_model, with its name and with another, and of another size.
OUTPUT_DIMS = [D_MODEL, mtf.Dimension("n", D_MODEL.size), mtf.Dimension("n", 3)]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": _gelu,
    "linear": lambda x: x,
}
FUNCTIONS = {"relu": mtf.relu, "gelu": mtf.gelu, "linear": None}


def _experts(
    output_dim: mtf.Dimension, activations: Sequence[str] = ("relu",)
) -> Callable[..., moe.Experts]:
    return functools.partial(
        moe.Experts,
        hidden_size=10,
        activations=[FUNCTIONS[name] for name in activations],
        output_dims=() if output_dim == D_MODEL else [output_dim],
    )


def _initialized(layer: Sublayer) -> Sublayer:
    mtf.initialize(layer, seed=1)
    return layer


def _outputs(layer: Sublayer, mesh: mtf.Mesh) -> dict[str, mtf.Tensor]:
    """Returns the outputs for whole sequences, of a prefill, and of a step."""

    def compute(x: mtf.Tensor) -> dict[str, mtf.Tensor]:
        first = mtf.reduce_first(x, LENGTH)
        return {
            "whole": layer(x, SequenceCall()),
            "prefill": layer.prefill(x, (), SequenceCall())[0],
            "step": layer.step(first, (), SequenceCall())[0],
        }

    return mtf.function(compute)(mtf.import_tf_tensor(mesh, inputs(), [BATCH, LENGTH, D_MODEL]))


@pytest.mark.parametrize("output_dim", OUTPUT_DIMS, ids=lambda dim: f"{dim.name}:{dim.size}")
@pytest.mark.parametrize("activations", [["relu"], ["gelu"], ["gelu", "linear"]], ids="_".join)
def test_a_switch_with_a_slot_for_every_token_is_the_formula(
    activations: list[str], output_dim: mtf.Dimension
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layer = _initialized(
        one_level(
            mesh,
            gate=moe.Switch(),
            experts=_experts(output_dim, activations),
            capacity=A_SLOT_FOR_ALL,
        )
    )
    weights = {path: mtf.to_numpy(v) for path, v in layer.named_variables().items()}
    x = inputs().astype(np.float64)
    logits = x @ weights["router/kernel"]
    gates = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    best = logits.argmax(-1)
    hidden = np.ones([])
    for i, name in enumerate(activations):
        kernel = weights[f"experts/wi/factors/{i}/kernel"][best]
        hidden = hidden * FORMULAS[name](np.einsum("bld,bldh->blh", x, kernel))
    expected = np.einsum("blh,blhn->bln", hidden, weights["experts/wo/kernel"][best])
    expected = expected * gates.max(-1)[..., np.newaxis]

    outputs = _outputs(layer, mesh)
    for output in (outputs["whole"], outputs["prefill"]):
        assert output.shape == mtf.Shape([BATCH, LENGTH, output_dim])
        assert_close(mtf.to_numpy(output), expected, FLOAT32_MODEL_TOLERANCE)
    assert outputs["step"].shape == mtf.Shape([BATCH, output_dim])
    assert_close(mtf.to_numpy(outputs["step"]), expected[:, 0], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("make", [one_level, pytest.param(two_levels, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "output_dim",
    [OUTPUT_DIMS[1], pytest.param(OUTPUT_DIMS[2], marks=pytest.mark.slow)],
    ids=lambda dim: f"{dim.name}:{dim.size}",
)
def test_an_output_dimension_keeps_its_name_on_a_mesh(
    make: Callable[..., Sublayer], output_dim: mtf.Dimension
) -> None:
    outputs = {}
    for mesh_shape in (ONE_DEVICE, "data:2,model:2"):
        mesh = mtf.Mesh(mesh_shape, LAYOUT)
        options = {"experts": _experts(output_dim), "capacity": A_SLOT_FOR_ALL}
        outputs[mesh_shape] = _outputs(_initialized(make(mesh, **options)), mesh)
    for name, output in outputs["data:2,model:2"].items():
        positions = [BATCH] if name == "step" else [BATCH, LENGTH]
        assert output.shape == mtf.Shape([*positions, output_dim])
        expected = mtf.to_numpy(outputs[ONE_DEVICE][name])
        assert_close(mtf.to_numpy(output), expected, FLOAT32_MODEL_TOLERANCE)
