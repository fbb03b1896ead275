"""No layout and no rematerialisation changes an encoder-decoder's loss, gradients or tokens."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from mtfrun import decoding, mtf
from mtfrun.models import Loss
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, assert_close
from tests.models.small_encoder_decoder import (
    VOCABULARY,
    packed_pairs,
    pairs,
    small_encoder_decoder,
)
from tests.models.small_model import LAYOUT, on_mesh

FEATURES = {"packed": packed_pairs, "unpacked": pairs}

# The meshes of one and both axes in each run; all combinations with the slow tests.
QUICK = {
    ("packed", ONE_DEVICE, True),
    ("unpacked", "data:2,model:1", False),
    ("packed", "data:1,model:2", False),
    ("packed", "data:2,model:2", True),
}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(FEATURES, LAYOUTS, [False, True])
]


@functools.cache
def _loss_and_gradients(
    rows: str, mesh_shape: str, rematerialise: bool
) -> tuple[Loss, dict[str, np.ndarray]]:
    """Returns a training step's loss, with dropout, label smoothing and z-loss, and gradients."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(
        mesh, dropout_rate=0.2, rematerialise=rematerialise, label_smoothing=0.1, z_loss=0.01
    )
    variables = model.named_variables()

    def step(features: dict[str, mtf.Tensor]) -> tuple[Loss, dict[str, mtf.Tensor]]:
        def total() -> tuple[mtf.Tensor, Loss]:
            loss = model.loss(features, training=True, key=mtf.random_key(5))
            return loss.total, loss

        (_, loss), gradients = mtf.value_and_gradients(total, variables)
        for path, gradient in gradients.items():
            assert gradient.shape == variables[path].shape, path
        return loss, gradients

    return mtf.to_numpy(mtf.function(step)(on_mesh(mesh, FEATURES[rows]())))


@pytest.mark.parametrize("rows, mesh_shape, rematerialise", CASES)
def test_loss_and_gradients_are_the_same_everywhere(
    rows: str, mesh_shape: str, rematerialise: bool
) -> None:
    expected_loss, expected = _loss_and_gradients(rows, ONE_DEVICE, False)
    loss, gradients = _loss_and_gradients(rows, mesh_shape, rematerialise)
    assert_close(loss.total, expected_loss.total, FLOAT32_MODEL_TOLERANCE)
    assert loss.weight == expected_loss.weight
    for name, metric in expected_loss.metrics.items():
        assert_close(loss.metrics[name].total, metric.total, FLOAT32_MODEL_TOLERANCE)
    assert gradients.keys() == expected.keys()
    for path, gradient in expected.items():
        assert np.abs(gradient).max() > 0.0, path
        assert_close(gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


@functools.cache
def _tokens(mesh_shape: str) -> np.ndarray:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(mesh)
    vocab = mtf.Dimension("vocab", VOCABULARY)

    def run(features: dict[str, mtf.Tensor]) -> mtf.Tensor:
        greedy = decoding.Greedy(vocab)
        return decoding.generate(model.decoder(features), features["targets"], greedy).ids

    targets = np.zeros([8, 12], np.int32)
    targets[4:, 0] = [3, 4, 5, 6]
    features = on_mesh(mesh, {"inputs": pairs()["inputs"], "targets": targets})
    return mtf.to_numpy(mtf.function(run)(features))


@pytest.mark.parametrize("mesh_shape", ["data:2,model:1", "data:1,model:2", "data:2,model:2"])
def test_greedy_decodes_are_the_same_everywhere(mesh_shape: str) -> None:
    np.testing.assert_array_equal(_tokens(mesh_shape), _tokens(ONE_DEVICE))
