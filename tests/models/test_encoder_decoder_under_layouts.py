"""No layout and no rematerialisation changes an encoder-decoder's loss, gradients or tokens."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models.transformer import TokenLoss
from tests.layouts import LAYOUTS, ONE_DEVICE
from tests.models.small_encoder_decoder import packed_pairs, pairs, small_encoder_decoder
from tests.models.small_model import LAYOUT
from tests.models.under_layouts import Step, assert_same_step, decoded, training_step

FEATURES = {"packed": packed_pairs, "unpacked": pairs}

# One device and a mesh of both axes in each run; all combinations with the slow tests.
QUICK = {("unpacked", ONE_DEVICE, True), ("packed", "data:2,model:2", True)}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(FEATURES, LAYOUTS, [False, True])
]


@functools.cache
def _step(rows: str, mesh_shape: str, rematerialise: bool) -> Step:
    """Returns a training step with dropout, label smoothing and z-loss."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(
        mesh,
        dropout_rate=0.2,
        rematerialise=rematerialise,
        loss=TokenLoss(label_smoothing=0.1, z_loss=0.01),
    )
    return training_step(model, mesh, FEATURES[rows]())


@pytest.mark.slow
@pytest.mark.parametrize("rows, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    rows: str, mesh_shape: str, rematerialise: bool
) -> None:
    actual = _step(rows, mesh_shape, rematerialise)
    assert_same_step(actual, _step(rows, ONE_DEVICE, False))


@functools.cache
def _tokens(mesh_shape: str) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    targets = np.zeros([8, 12], np.int32)
    targets[4:, 0] = [3, 4, 5, 6]
    features = {"inputs": pairs()["inputs"], "targets": targets}
    return decoded(small_encoder_decoder(mesh), mesh, features)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape",
    [
        "data:2,model:2",
        pytest.param("data:2,model:1", marks=pytest.mark.slow),
        pytest.param("data:1,model:2", marks=pytest.mark.slow),
    ],
)
def test_greedy_decodes_are_the_same_everywhere(mesh_shape: str) -> None:
    np.testing.assert_array_equal(_tokens(mesh_shape), _tokens(ONE_DEVICE))
