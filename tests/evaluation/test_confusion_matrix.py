"""The confusion matrix of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.evaluation import ModelMetrics
from tests.layouts import ONE_DEVICE
from tests.models.resnet.small_resnet import BATCH, NUM_CLASSES, SHAPES, image_batch, small_resnet


@pytest.mark.parametrize(
    ("mesh_shape", "layout"),
    [
        (ONE_DEVICE, ""),
        ("data:2,model:2", "batch:data;classes:model"),
        pytest.param("data:4,model:1", "batch:data", marks=pytest.mark.slow),
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
    measured = ModelMetrics(model, mesh).evaluate(Infeed(iter(batches), mesh, SHAPES))
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
    values = ModelMetrics(model, mesh)(Infeed(iter([image_batch()]), mesh, SHAPES))
    assert values.keys() == {"loss", "accuracy", "top_5_accuracy"}
