"""No layout, blocking or rematerialisation changes the training of a residual network."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.data import Infeed
from mtfrun.models import Metric
from mtfrun.models.resnet import (
    Blocking,
    BottleneckBlock,
    ImageClassifier,
    ImageInput,
    LargeImageStem,
)
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import NUM_CLASSES, SHAPES, image_batch, on_mesh, small_resnet
from tests.models.small_model import Step, assert_same_step, training_step

# (mesh shape, layout, row_blocks, col_blocks)
FIRST_STEP = {
    "one device": (ONE_DEVICE, "", 1, 1),
    "data 4": ("data:4,model:1", "batch:data", 1, 1),
    "data 2 x filters 2": ("data:2,model:2", "batch:data;filters:model", 1, 1),
    "row_blocks 2 x col_blocks 2": ("data:2,model:2", "row_blocks:data;col_blocks:model", 2, 2),
    "blocks on one device": (ONE_DEVICE, "", 4, 2),
    "rematerialised": (ONE_DEVICE, "", 1, 1),
    "rematerialised on data 2 x col_blocks 2": (
        "data:2,model:2",
        "batch:data;col_blocks:model",
        1,
        2,
    ),
    "classes 2": ("data:1,model:2", "classes:model", 1, 1),
    "data 2 x col_blocks 4": ("data:2,model:4", "batch:data;col_blocks:model", 1, 4),
}


@functools.cache
def _first_step(where: str, bottleneck: bool) -> Step:
    mesh_shape, layout, row_blocks, col_blocks = FIRST_STEP[where]
    mesh = mtf.Mesh(mesh_shape, layout)
    options: dict[str, Any] = {
        "blocking": Blocking(row_blocks, col_blocks),
        "rematerialise": where.startswith("rematerialised"),
    }
    if bottleneck:
        options |= {"block": BottleneckBlock, "stage_sizes": [2], "widths": [4]}
        # Its output has a quarter of the rows and cols.
        options["stem"] = LargeImageStem
    model = small_resnet(mesh, **options)
    mtf.initialize(model, seed=2)
    return training_step(model, mesh, {}, on_mesh(mesh, image_batch()))


@pytest.mark.parametrize(
    "where, bottleneck",
    [
        *((where, False) for where in [*FIRST_STEP][1:]),
        *((where, True) for where in ("data 2 x filters 2", "row_blocks 2 x col_blocks 2")),
    ],
)
def test_the_first_step_is_that_of_one_device(where: str, bottleneck: bool) -> None:
    expected = _first_step("one device", bottleneck)
    assert expected.loss.updates
    assert_same_step(_first_step(where, bottleneck), expected)


COLLECTED_STEPS = 3
IMAGE_INPUT = ImageInput(mean=0.0, stddev=255.0)


class Brightness(layers.Layer):
    """Returns x; its mean is a loss and a measurement, and a variable counts the steps."""

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        self.steps = mtf.Variable(mesh, [], trainable=False)

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        return {"mean": mtf.Shape()}

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        return [self.steps]

    def __call__(self, x: mtf.Tensor, call: layers.Call) -> mtf.Tensor:
        if call.collector is not None:
            mean = mtf.reduce_mean(x)
            call.collector.add_loss(self, mean)
            call.collector.add_metrics(self, {"mean": Metric(mean, mtf.ones_like(mean))})
            if call.training:
                call.collector.add_update(self.steps, mtf.to_float(self.steps) + 1.0)
        return x


class LinearClassifier(ImageClassifier):
    """Logits that are a linear map of the pixels."""

    def __init__(self, mesh: mtf.Mesh, *, rematerialise: bool) -> None:
        super().__init__(NUM_CLASSES, IMAGE_INPUT)
        self._rematerialise = rematerialise
        self.brightness = Brightness(mesh)
        self.softmax = layers.Dense(mesh, SHAPES["images"].dims[1:], [self._classes])

    def _classify(self, images: mtf.Tensor, call: layers.Call) -> mtf.Tensor:
        if self._rematerialise:
            return self.softmax(layers.recompute(self.brightness, images, call), call)
        return self.softmax(self.brightness(images, call), call)


def _means() -> np.ndarray:
    """Returns the mean of the normalised pixels of every batch."""
    return np.array([image_batch(seed)["images"].mean() / 255.0 for seed in range(COLLECTED_STEPS)])


@pytest.mark.parametrize("rematerialise", [False, True])
@pytest.mark.parametrize(
    "mesh_shape, microbatches", [(ONE_DEVICE, 1), (ONE_DEVICE, 2), ("data:2,model:2", 2)]
)
def test_what_layers_collect_reaches_the_training_of_an_image_model(
    mesh_shape: str, microbatches: int, rematerialise: bool
) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;classes:model")
    model = LinearClassifier(mesh, rematerialise=rematerialise)
    state = TrainState(model, optim.Sgd(0.1), mesh)
    state.initialize()
    assert list(model.updated_paths) == ["brightness/steps"]
    batches = [image_batch(seed) for seed in range(COLLECTED_STEPS)]
    features = Infeed(iter(batches), mesh, SHAPES).next(COLLECTED_STEPS)
    assert features is not None
    run = train_steps_function(state, StepOptions(microbatches=microbatches))
    record = mtf.to_numpy(run(features, mtf.constant(mesh, COLLECTED_STEPS, dtype=tf.int32)))

    metrics = {**record.metrics, "objective": record.objective}
    values: dict[str, Any] = {name: sums.total / sums.weight for name, sums in metrics.items()}
    assert_close(values["brightness/mean"], _means(), FLOAT32_MODEL_TOLERANCE)
    assert_close(values["objective"] - values["loss"], _means(), FLOAT32_MODEL_TOLERANCE)
    assert mtf.to_numpy(model.brightness.steps) == COLLECTED_STEPS


def test_evaluation_measures_layers_and_updates_nothing() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = LinearClassifier(mesh, rematerialise=False)
    mtf.initialize(model)
    run = mtf.function(lambda features: model.loss(features, training=False))
    loss = mtf.to_numpy(run(on_mesh(mesh, image_batch(0))))
    assert loss.updates == {}
    assert set(loss.metrics) == {*model.metric_shapes, "confusion_matrix"}
    assert_close(loss.metrics["brightness/mean"].total, _means()[0], FLOAT32_MODEL_TOLERANCE)
    objective = loss.total - loss.metrics["loss"].total
    assert_close(objective / loss.weight, _means()[0], FLOAT32_MODEL_TOLERANCE)
