"""Classification of images with an untrained network."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import ImageData, TfdsImages
from mtfrun.experiment import Classification, Experiment
from mtfrun.models.resnet import Backbone, ResNet
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

SIZE = (8, 8, 1)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("tfds")


def _classification(data_dir: pathlib.Path, mesh_shape: str, **options: int) -> Classification:
    mesh = mtf.Mesh(mesh_shape, "batch:data;classes:model")
    model = functools.partial(ResNet, backbone=Backbone(stage_sizes=[1], widths=[4]))
    data = ImageData(TfdsImages("digits", data_dir=str(data_dir)))
    experiment = Experiment(mesh, model, data)
    mtf.initialize(experiment.model, seed=1)
    return Classification(experiment, **{"batch_size": 4, **options})


def _images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, [count, *SIZE]).astype(np.uint8))


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_predictions_are_the_most_probable_classes(data_dir: pathlib.Path, mesh_shape: str) -> None:
    classification = _classification(data_dir, mesh_shape, top_k=3)
    images = _images(6)
    done: list[int] = []
    predictions = classification(images, done.append)
    assert done == [4, 6]
    single = _classification(data_dir, ONE_DEVICE).experiment
    shape = single.data.shapes(6)["images"]
    logits = mtf.to_numpy(
        mtf.function(single.model.logits)(
            {"images": mtf.import_tf_tensor(single.mesh, np.stack(images), shape)}
        )
    )
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert len(predictions) == 6
    for prediction, row in zip(predictions, expected, strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        assert [entry.label for entry in prediction.top] == [str(i) for i in best]
        probabilities = [entry.probability for entry in prediction.top]
        assert_close(probabilities, row[best], FLOAT32_MODEL_TOLERANCE)
        assert (prediction.label, prediction.probability) == prediction.top[0]


def test_a_prediction_depends_neither_on_other_images_nor_on_padding(
    data_dir: pathlib.Path,
) -> None:
    classification = _classification(data_dir, ONE_DEVICE)
    images = _images(5)
    together = classification(images)
    assert [classification([image])[0] for image in images] == together
    assert classification([]) == []


def test_all_classes_are_returned_if_top_k_exceeds_their_number(data_dir: pathlib.Path) -> None:
    (prediction,) = _classification(data_dir, ONE_DEVICE, top_k=99)(_images(1))
    assert sorted(entry.label for entry in prediction.top) == list("0123456789")
    assert sum(entry.probability for entry in prediction.top) == pytest.approx(1.0, abs=1e-5)
