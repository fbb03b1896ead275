"""Log-probabilities of targets, whose sum is the loss."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf
from mtfrun.evaluation import target_log_probs
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.models.small_encoder_decoder import pairs, small_encoder_decoder

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


def test_log_probs_of_targets_add_up_to_the_loss(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_encoder_decoder(mesh)
    arrays = pairs()
    features = {
        name: mtf.import_tf_tensor(mesh, x, [("batch", x.shape[0]), ("length", x.shape[1])])
        for name, x in arrays.items()
    }
    run = mtf.function(
        lambda f: (target_log_probs(model, f), model.loss(f, training=False).metrics["loss"].total)
    )
    log_probs, total = mtf.to_numpy(run(features))
    assert_close(-log_probs.sum(), total, FLOAT32_MODEL_TOLERANCE)
    assert np.all((log_probs == 0) == (arrays["targets"] == 0))
