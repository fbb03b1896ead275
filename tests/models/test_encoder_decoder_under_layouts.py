"""No layout and no rematerialisation changes an encoder-decoder's loss, gradients or tokens."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models.transformer import TokenLoss
from tests.layouts import ONE_DEVICE
from tests.models.small_encoder_decoder import packed_pairs, pairs, small_encoder_decoder
from tests.models.small_model import LAYOUT
from tests.models.under_layouts import Step, assert_same_step, decoded, training_step

FEATURES = {"packed": packed_pairs, "unpacked": pairs}

CASES = [
    ("unpacked", ONE_DEVICE, True),
    ("packed", "data:2,model:2", True),
    ("packed", "data:4,model:2", False),
    ("unpacked", "data:4,model:2", False),
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
def test_greedy_decodes_are_the_same_everywhere() -> None:
    np.testing.assert_array_equal(_tokens("data:2,model:2"), _tokens(ONE_DEVICE))
