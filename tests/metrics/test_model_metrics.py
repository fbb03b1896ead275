"""Metrics of models: padding, layouts, bits per byte, and log-probabilities of targets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.experiment import ModelMetrics, target_log_probs
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import BATCH, NUM_CLASSES, SHAPES, image_batch, small_resnet
from tests.models.small_model import LAYOUT, VOCABULARY, pairs, small_encoder_decoder, small_model

ROWS = np.asarray([[7, 1, 9, 9, 9, 9, 9, 1, 0, 0, 0, 0], [7, 7, 1, 9, 1, 0, 0, 0, 0, 0, 0, 0]])
ENCODER_DECODER_LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        (ONE_DEVICE, ""),
        pytest.param("data:2,model:2", "batch:data;classes:model", marks=pytest.mark.slow),
    ],
)
def test_every_example_except_padding_counts_once(mesh_shape: str, layout: str) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = small_resnet(mesh)
    mtf.initialize(model, seed=4)
    batches = [image_batch(seed) for seed in range(3)]
    batches[2]["weights"][5:] = 0
    rng = np.random.default_rng(0)
    for batch in batches:  # one colour each, which an untrained network distinguishes
        batch["images"][:] = rng.integers(0, 256, [BATCH, 1, 1, 3])
    metrics = ModelMetrics(model, mesh)
    measured = metrics.means(metrics.sums(Infeed(iter(batches), mesh, SHAPES)))
    expected = np.zeros([NUM_CLASSES, NUM_CLASSES])
    logits_of = mtf.function(model.logits)
    for batch in batches:
        images = mtf.import_tf_tensor(mesh, batch["images"], SHAPES["images"])
        logits = mtf.to_numpy(logits_of({"images": images}))
        for i in range(BATCH):
            expected[batch["labels"][i], np.argmax(logits[i])] += batch["weights"][i]
    assert measured.tables.keys() == {"confusion_matrix"}
    np.testing.assert_array_equal(measured.tables["confusion_matrix"], expected)
    assert np.trace(expected) / expected.sum() == pytest.approx(measured.values["accuracy"])
    assert expected.sum() == 21 and np.count_nonzero(expected.sum(axis=0)) > 1


def test_image_models_have_no_perplexity() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_resnet(mesh)
    mtf.initialize(model)
    metrics = ModelMetrics(model, mesh)
    means = metrics.means(metrics.sums(Infeed(iter([image_batch()]), mesh, SHAPES)))
    assert means.values.keys() == {"loss", "accuracy", "top_5_accuracy"}


# "inputs end targets end": the targets are 5 and 1 bytes.


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("targets_only", "num_bytes"), [(True, 6), (False, 9)])
def test_only_bytes_of_targets_with_a_loss_count(
    mesh_shape: str, targets_only: bool, num_bytes: int
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, loss_on_targets_only=targets_only)
    bytes_per_id = (np.arange(VOCABULARY) >= 3).astype(np.int32)
    batches = iter([{"targets": ROWS.astype(np.int32)}])
    infeed = Infeed(batches, mesh, {"targets": mtf.convert_to_shape("batch:2;length:12")})
    metrics = ModelMetrics(model, mesh, bytes_per_id=bytes_per_id)
    values = metrics.means(metrics.sums(infeed)).values
    num_tokens = num_bytes + (2 if targets_only else 4)
    expected = np.float32(values["loss"] * num_tokens / math.log(2) / num_bytes)
    assert_close(np.float32(values["bits_per_byte"]), expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_log_probs_of_targets_add_up_to_the_loss(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, ENCODER_DECODER_LAYOUT)
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
