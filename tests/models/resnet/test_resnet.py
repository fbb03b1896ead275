"""Residual networks: sizes, logits against plain TensorFlow, moving averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.errors import InputError
from mtfrun.models.resnet import (
    Backbone,
    Blocking,
    BottleneckBlock,
    ImageInput,
    LargeImageStem,
    ResNet,
)
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import BATCH, SHAPES, image_batch, on_mesh, small_resnet

PLAIN_INPUT = ImageInput()
SMALL = Backbone(stage_sizes=[1], widths=[4])


def test_five_classes_have_no_top_5_accuracy() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    batch = image_batch()
    batch["labels"] %= 5
    five = ResNet(mesh, 5, mtf.Shape(SHAPES["images"].dims[1:]), backbone=SMALL)
    mtf.initialize(five, seed=0)
    run = mtf.function(lambda f: five.loss(f, training=True, key=mtf.random_key(0)).metrics)
    assert run(on_mesh(mesh, batch)).keys() == five.metric_shapes.keys() == {"loss", "accuracy"}


def _num_parameters(model: ResNet) -> int:
    return sum(v.shape.size for v in model.named_variables().values() if v.trainable)


def test_the_networks_have_as_many_parameters_as_published() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    image = mtf.convert_to_shape("rows:32;cols:32;channels:3")
    # 269,722 with identity shortcuts; the two that change the width are convolutions here.
    assert _num_parameters(ResNet(mesh, 10, image)) == 269_722 + 2_560 + 192
    backbone = Backbone(
        stem=LargeImageStem,
        block=BottleneckBlock,
        stage_sizes=[3, 4, 6, 3],
        widths=[64, 128, 256, 512],
    )
    large = mtf.convert_to_shape("rows:224;cols:224;channels:3")
    resnet50 = ResNet(mesh, 1000, large, backbone=backbone)
    assert _num_parameters(resnet50) == 25_557_032


def _convolved(values: dict[str, np.ndarray], path: str, x: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns a convolution with zero padding of half a filter, then batch normalisation."""
    kernel = values[f"{path}/convolution/kernel"]
    half = kernel.shape[0] // 2
    x = tf.pad(x, [[0, 0], [half, half], [half, half], [0, 0]])
    x = tf.nn.conv2d(x, kernel, stride, "VALID")
    mean, variance = tf.nn.moments(x, [0, 1, 2])
    scale, bias = values[f"{path}/norm/scale"], values[f"{path}/norm/bias"]
    return tf.nn.batch_normalization(x, mean, variance, bias, scale, 1e-5)


def _block(values: dict[str, np.ndarray], path: str, x: tf.Tensor, strides: list[int]) -> tf.Tensor:
    shortcut = x
    if f"{path}/shortcut/convolution/kernel" in values:
        shortcut = _convolved(values, f"{path}/shortcut", x, max(strides))
    for i, stride in enumerate(strides):
        x = _convolved(values, f"{path}/convolutions/{i}", tf.nn.relu(x) if i else x, stride)
    return tf.nn.relu(x + shortcut)


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_logits_are_those_of_plain_tensorflow(bottleneck: bool) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    options: dict[str, Any] = {"image_input": PLAIN_INPUT}
    if bottleneck:
        options |= {"block": BottleneckBlock, "stem": LargeImageStem}
    model = small_resnet(mesh, **options)
    mtf.initialize(model, seed=3)
    values = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    batch = image_batch()

    x = (batch["images"].astype(np.float32) - 127.5) / 127.5
    x = tf.nn.relu(_convolved(values, "stem/convolution", x, 2 if bottleneck else 1))
    if bottleneck:
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])  # after relu 0 is never the largest
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    first, second = ([1, 1, 1], [1, 2, 1]) if bottleneck else ([1, 1], [2, 1])
    x = _block(values, "stages/0/0", x, first)
    x = _block(values, "stages/1/0", x, second)
    mean = tf.reduce_mean(x, [1, 2])
    logits = tf.matmul(mean, values["softmax/kernel"]) + values["softmax/bias"]
    nats = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)

    run = mtf.function(lambda f: model.loss(f, training=True, key=mtf.random_key(0)).metrics)
    metrics = mtf.to_numpy(run(on_mesh(mesh, batch)))
    assert_close(metrics["loss"].total, tf.reduce_sum(nats), FLOAT32_MODEL_TOLERANCE)
    labels = batch["labels"]
    for name, k in (("accuracy", 1), ("top_5_accuracy", 5)):
        is_correct = tf.math.in_top_k(labels, logits, k)
        assert metrics[name].total == np.count_nonzero(is_correct)
        assert metrics[name].weight == BATCH


def _state(mesh: mtf.Mesh) -> TrainState:
    model = small_resnet(mesh, image_input=PLAIN_INPUT)
    state = TrainState(model, optim.Sgd(0.01), mesh)
    state.initialize()
    return state


def _train(state: TrainState, batch: dict[str, np.ndarray], microbatches: int) -> None:
    features = Infeed(iter([batch]), state.mesh, SHAPES).next(1)
    assert features is not None
    run = train_steps_function(state, StepOptions(microbatches=microbatches))
    run(features, mtf.constant(state.mesh, 1, dtype=tf.int32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape, microbatches",
    [(ONE_DEVICE, 1), (ONE_DEVICE, 2), pytest.param("data:2,model:2", 2, marks=pytest.mark.slow)],
)
def test_moving_averages_take_the_mean_over_microbatches(
    mesh_shape: str, microbatches: int
) -> None:
    mesh = mtf.Mesh(mesh_shape, "batch:data;filters:model")
    state, batch = _state(mesh), image_batch()
    model = state.model
    updates = mtf.function(lambda f: model.loss(f, training=True, key=mtf.random_key(0)).updates)
    # A microbatch has every n-th image.
    parts = [
        mtf.to_numpy(
            updates(on_mesh(mesh, {name: x[i::microbatches] for name, x in batch.items()}))
        )
        for i in range(microbatches)
    ]
    assert set(parts[0]) == {p for p, v in model.named_variables().items() if not v.trainable}
    before = {path: mtf.to_numpy(model.named_variables()[path]) for path in parts[0]}
    _train(state, batch, microbatches)
    for path, variable in model.named_variables().items():
        if path in before:
            expected = np.mean([part[path] for part in parts], axis=0)
            assert_close(mtf.to_numpy(variable), expected, FLOAT32_MODEL_TOLERANCE)
            assert np.abs(expected - before[path]).max() > 1e-3, path


def test_evaluation_uses_the_moving_averages_not_the_batch() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    state, batch = _state(mesh), image_batch()
    model = state.model
    logits = mtf.function(model.logits)
    untrained = mtf.to_numpy(logits(on_mesh(mesh, batch)))
    _train(state, batch, 1)
    trained = mtf.to_numpy(logits(on_mesh(mesh, batch)))
    half = mtf.to_numpy(logits(on_mesh(mesh, {name: x[:4] for name, x in batch.items()})))
    assert_close(half, trained[:4], FLOAT32_MODEL_TOLERANCE)
    assert np.abs(trained - untrained).max() > 1e-2


def test_padding_has_no_weight() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = small_resnet(mesh)
    mtf.initialize(model)
    run = mtf.function(lambda f: model.loss(f, training=False).metrics)
    batch = image_batch()
    short = {name: x[:5] for name, x in batch.items()}
    padded = {name: np.concatenate([x[:5], 0 * x[5:]]) for name, x in batch.items()}
    metrics = mtf.to_numpy(run(on_mesh(mesh, padded)))
    for name, expected in mtf.to_numpy(run(on_mesh(mesh, short))).items():
        assert metrics[name].weight == expected.weight == 5
        assert_close(metrics[name].total, expected.total)


def test_blocks_that_do_not_divide_the_image_are_an_error() -> None:
    with pytest.raises(InputError, match="cannot cut images of 8 rows and 8 cols"):
        small_resnet(mtf.Mesh(ONE_DEVICE), blocking=Blocking(rows=3))
    with pytest.raises(InputError, match="cols is 0: it must be an integer of at least 1"):
        Blocking(cols=0)


@pytest.mark.parametrize("stage_sizes", [[1], [1, 0], 3, [], [1, 2.0], "12", None])
def test_stage_sizes_that_do_not_fit_the_widths_are_an_error(stage_sizes: Any) -> None:
    with pytest.raises(InputError, match=r"must be a list of integers|at least 1|for each stage"):
        Backbone(stage_sizes=stage_sizes, widths=[4, 8])


def test_a_stem_has_its_own_width_and_the_first_stage_its_own_stride() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, "")
    backbone = Backbone(stage_sizes=[2], widths=[4], stem_width=6, first_stride=2)
    _, ((first, second),) = backbone.layers(
        mesh, mtf.Dimension("channels", 3), Blocking(), mtf.DTypePolicy()
    )
    assert first.shortcut is not None and second.shortcut is None
    assert first.shortcut.convolution.kernel.shape.to_integer_list == [1, 1, 6, 4]
    with pytest.raises(InputError, match="stem_width is 0: it must be an integer"):
        Backbone(stem_width=0)
