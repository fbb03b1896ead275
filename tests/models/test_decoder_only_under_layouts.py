"""No layout and no rematerialisation changes a language model's loss, gradients or tokens."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.models.transformer import TokenLoss
from tests.layouts import ONE_DEVICE
from tests.models.small_model import LAYOUT, packed_rows, small_model
from tests.models.under_layouts import Step, assert_same_step, decoded, training_step

# (features, tied softmax)
VARIANTS = {
    "packed, tied": (("targets", "targets_segmentation", "targets_position"), True),
    "unpacked, untied": (("targets",), False),
    "weighted, tied": (("targets", "targets_weights"), True),
}

EIGHT = "data:4,model:2"
CASES = [
    ("packed, tied", "data:2,model:2", True),
    pytest.param("unpacked, untied", ONE_DEVICE, True, marks=pytest.mark.slow),
    *(pytest.param(variant, EIGHT, False, marks=pytest.mark.slow) for variant in VARIANTS),
]


@functools.cache
def _step(variant: str, mesh_shape: str, rematerialise: bool) -> Step:
    """Returns a training step of one layer, with dropout, label smoothing and z-loss."""
    names, tied_softmax = VARIANTS[variant]
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(
        mesh,
        num_layers=1,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        tied_softmax=tied_softmax,
        loss=TokenLoss(label_smoothing=0.1, z_loss=0.01),
    )
    features = packed_rows()
    features["targets_weights"] = np.arange(features["targets"].size).reshape(8, 12) % 2
    return training_step(model, mesh, {name: features[name] for name in names})


@pytest.mark.parametrize("variant, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    variant: str, mesh_shape: str, rematerialise: bool
) -> None:
    actual = _step(variant, mesh_shape, rematerialise)
    assert_same_step(actual, _step(variant, ONE_DEVICE, False))


@functools.cache
def _tokens(mesh_shape: str, sampled: bool) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh)
    prompts = np.zeros([8, 12], np.int32)
    for row, size in enumerate([0, 1, 2, 3, 4, 5, 11, 12]):
        prompts[row, :size] = 2 + row

    def sample(lines: mtf.Tensor) -> decoding.Sample:
        return decoding.Sample(model.vocab, mtf.random_key(1), lines, temperature=0.8, top_k=5)

    return decoded(model, mesh, {"targets": prompts}, sample if sampled else None)


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape, sampled", [("data:2,model:2", True), (EIGHT, False)])
def test_decodes_are_the_same_everywhere(mesh_shape: str, sampled: bool) -> None:
    np.testing.assert_array_equal(_tokens(mesh_shape, sampled), _tokens(ONE_DEVICE, sampled))
