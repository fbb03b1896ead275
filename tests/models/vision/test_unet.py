"""U-Nets train alike under every layout."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.errors import InputError
from mtfrun.evaluation import ModelMetrics
from mtfrun.layers import LayerNorm
from mtfrun.models.vision import UNet
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.under_layouts import Step, assert_same_step, training_step
from tests.models.vision.small_unet import (
    IMAGES,
    VOLUMES,
    on_mesh,
    segmented_batch,
    shapes_of,
    small_unet,
)

LAYOUTS = [
    ("data:2,model:1", "batch:data", IMAGES),
    ("data:2,model:1", "rows:data", IMAGES),
    ("data:2,model:2", "rows:data;cols:model", IMAGES),
    ("data:2,model:2", "batch:data;rows:model", IMAGES),
    ("data:2,model:2", "batch:data;filters:model", IMAGES),
    ("data:2,model:2", "rows:data;filters:model", IMAGES),
    ("data:1,model:3", "classes:model", IMAGES),
    ("data:2,model:1", "batch:data", VOLUMES),
    ("data:2,model:2", "depth:data;rows:model", VOLUMES),
    ("data:2,model:2", "batch:data;cols:model", VOLUMES),
]


@functools.cache
def _step(mesh_shape: str, layout: str, image: mtf.Shape, **stages: Any) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = small_unet(mesh, image, **stages)
    return training_step(model, mesh, {}, on_mesh(mesh, segmented_batch(image), image))


def test_a_split_of_rows_and_cols_changes_neither_loss_nor_gradients() -> None:
    sizes = {"widths": (2, 3), "num_convolutions": 1}
    split = _step("data:2,model:2", "rows:data;cols:model", IMAGES, **sizes)
    assert_same_step(split, _step(ONE_DEVICE, "", IMAGES, **sizes))


@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "layout", "image"), LAYOUTS)
def test_a_layout_changes_neither_loss_nor_gradients(
    mesh_shape: str, layout: str, image: mtf.Shape
) -> None:
    assert_same_step(_step(mesh_shape, layout, image), _step(ONE_DEVICE, "", image))


@pytest.mark.slow
@pytest.mark.parametrize("image", [IMAGES, VOLUMES])
def test_rematerialisation_changes_nothing(image: mtf.Shape) -> None:
    assert_same_step(_step(ONE_DEVICE, "", image, rematerialise=True), _step(ONE_DEVICE, "", image))


@pytest.mark.slow
def test_layer_norms_have_the_same_steps_under_layouts() -> None:
    where = ("data:2,model:2", "rows:data;filters:model", IMAGES)
    assert_same_step(_step(*where, norm=LayerNorm), _step(ONE_DEVICE, "", IMAGES, norm=LayerNorm))


def _train(mesh_shape: str, layout: str) -> tuple[np.ndarray, dict[str, float], Any]:
    """Returns the losses of three steps, an evaluation after them, and the variables."""
    mesh = mtf.Mesh(mesh_shape, layout)
    model = small_unet(mesh)
    state = TrainState(model, optim.Momentum(0.1), mesh, seed=1)
    state.initialize()
    batches = [segmented_batch(seed=seed) for seed in range(3)]
    features = Infeed(iter(batches), mesh, shapes_of()).next(3)
    assert features is not None
    steps = mtf.constant(mesh, 3, dtype=tf.int32)
    record = mtf.to_numpy(train_steps_function(state)(features, steps))
    metrics = ModelMetrics(model, mesh)(Infeed(iter(batches), mesh, shapes_of()))
    return record.objective.total, metrics, mtf.to_numpy(model.named_variables())


@pytest.mark.slow
def test_steps_and_the_evaluation_on_two_times_two_devices_are_those_of_one() -> None:
    losses, metrics, variables = _train("data:2,model:2", "rows:data;cols:model")
    expected_losses, expected_metrics, expected_variables = _train(ONE_DEVICE, "")
    assert expected_losses[-1] < expected_losses[0]
    assert_close(losses, expected_losses, FLOAT32_MODEL_TOLERANCE)
    assert metrics.keys() == expected_metrics.keys() == {"loss", "accuracy", "dice_loss"}
    for name, value in expected_metrics.items():
        assert_close(metrics[name], value, FLOAT32_MODEL_TOLERANCE)
    for path, value in expected_variables.items():
        assert_close(variables[path], value, 1e-3)


@pytest.mark.parametrize(
    ("image", "mesh_shape", "layout", "message"),
    [
        ("rows:12;cols:6;channels:1", ONE_DEVICE, "", "6 cols cannot be halved 2 times on 1"),
        ("rows:4;cols:4;channels:1", "data:2", "rows:data", "must be a multiple of 8"),
        ("rows:4;channels:1", ONE_DEVICE, "", "reads images and volumes with channels"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    image: str, mesh_shape: str, layout: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small_unet(mtf.Mesh(mesh_shape, layout), mtf.convert_to_shape(image), widths=(2, 2, 2))


@pytest.mark.parametrize("widths", [[], [4], [4, 0]])
def test_widths_that_make_no_u_are_refused(widths: list[int]) -> None:
    with pytest.raises(InputError, match="two or more numbers of at least 1"):
        small_unet(mtf.Mesh(ONE_DEVICE), widths=widths)


@pytest.mark.parametrize("image", [IMAGES, VOLUMES])
def test_a_pixel_sees_its_image_and_no_other_one(image: mtf.Shape) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model: UNet = small_unet(mesh, image, widths=(4, 4))
    features = on_mesh(mesh, segmented_batch(image), image)
    changed = segmented_batch(image)
    changed["images"][0] = 255 - changed["images"][0]
    before, after = (
        mtf.to_numpy(model.logits({"images": x["images"]}))
        for x in (features, on_mesh(mesh, changed, image))
    )
    assert before.shape == (*shapes_of(image)["masks"].to_integer_list, 3)
    moved = np.abs(after - before).reshape(len(before), -1).max(axis=1) > 1e-6
    assert moved.tolist() == [True, False, False, False]
