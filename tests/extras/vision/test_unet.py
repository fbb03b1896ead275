"""U-Nets, and the losses and metrics of segmentation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.vision import SegmentationLoss, SegmentationModel, UNet, soft_dice
from mtfrun.layers import Call
from mtfrun.models import Loss
from mtfrun.models.resnet import CONFUSION_MATRIX, ImageInput
from tests.extras.vision.small_unet import (
    IMAGES,
    NUM_CLASSES,
    VOLUMES,
    on_mesh,
    segmented_batch,
    shapes_of,
    small_unet,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import Step, assert_same_step, training_step

LAYOUTS = [
    ("data:2,model:1", "batch:data", IMAGES),
    ("data:2,model:2", "rows:data;cols:model", IMAGES),
    ("data:2,model:2", "batch:data;filters:model", IMAGES),
    ("data:1,model:3", "classes:model", IMAGES),
    ("data:2,model:2", "depth:data;rows:model", VOLUMES),
    ("data:2,model:2", "batch:data;cols:model", VOLUMES),
]


@functools.cache
def _step(mesh_shape: str, layout: str, image: mtf.Shape, **stages: Any) -> Step:
    mesh = mtf.Mesh(mesh_shape, layout)
    model = small_unet(mesh, image, **stages)
    return training_step(model, mesh, {}, on_mesh(mesh, segmented_batch(image), image))


@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "layout", "image"), LAYOUTS)
def test_a_layout_changes_neither_loss_nor_gradients(
    mesh_shape: str, layout: str, image: mtf.Shape
) -> None:
    assert_same_step(_step(mesh_shape, layout, image), _step(ONE_DEVICE, "", image))


@pytest.mark.slow
def test_rematerialisation_changes_nothing() -> None:
    recomputed = _step(ONE_DEVICE, "", IMAGES, rematerialise=True)
    assert_same_step(recomputed, _step(ONE_DEVICE, "", IMAGES))


@pytest.mark.parametrize(
    ("image", "mesh_shape", "layout", "message"),
    [
        ("rows:12;cols:6;channels:1", ONE_DEVICE, "", "6 cols: on 1 device"),
        ("rows:4;cols:4;channels:1", "data:2", "rows:data", "must be a multiple of 8"),
        ("rows:4;channels:1", ONE_DEVICE, "", "reads images and volumes with channels"),
    ],
)
def test_images_that_do_not_fit_are_refused(
    image: str, mesh_shape: str, layout: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        small_unet(mtf.Mesh(mesh_shape, layout), mtf.convert_to_shape(image), widths=(2, 2, 2))


@pytest.mark.parametrize("widths", [[4], [4, 0]])
def test_widths_that_make_no_u_are_refused(widths: list[int]) -> None:
    with pytest.raises(InputError, match=r"must be two or more|at least 1"):
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


def _numpy_metrics(logits: np.ndarray, masks: np.ndarray, smoothing: float) -> dict[str, float]:
    """Returns sums over the images of logits [images, rows, cols, classes]."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
    truth = np.eye(logits.shape[-1])[masks]
    totals = {"loss": 0.0, "accuracy": 0.0, "dice_loss": 0.0}
    for p, t in zip(probabilities, truth, strict=True):
        totals["loss"] -= np.log((p * t).sum(axis=-1)).mean()
        totals["accuracy"] += (p.argmax(axis=-1) == t.argmax(axis=-1)).mean()
        coefficients = [
            (2 * (p[..., c] * t[..., c]).sum() + smoothing)
            / ((p[..., c] ** 2).sum() + t[..., c].sum() + smoothing)
            for c in range(1, logits.shape[-1])
        ]
        totals["dice_loss"] += 1 - np.mean(coefficients)
    return totals


@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_the_loss_is_that_of_numpy_and_padding_has_none(dice: float) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 4, 4, NUM_CLASSES)).astype(np.float32)
    masks = rng.integers(0, 2, (3, 4, 4)).astype(np.int32)  # no pixel of the last class
    weights = np.array([1, 1, 0], np.float32)
    loss = SegmentationLoss(2.0, dice, smoothing=0.7)(
        mtf.import_tf_tensor(mesh, logits, f"batch:3;rows:4;cols:4;classes:{NUM_CLASSES}"),
        mtf.import_tf_tensor(mesh, masks, "batch:3;rows:4;cols:4"),
        mtf.import_tf_tensor(mesh, weights, "batch:3"),
    )
    expected = _numpy_metrics(logits[:2], masks[:2], 0.7)
    actual = mtf.to_numpy(loss)
    assert actual.weight == 2
    for name, total in expected.items():
        assert_close(actual.metrics[name].total, total)
        assert actual.metrics[name].weight == 2
    assert_close(actual.total, 2 * expected["loss"] + dice * expected["dice_loss"])


def test_a_perfect_or_rightly_empty_prediction_has_a_dice_coefficient_of_1() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    truth = mtf.import_tf_tensor(mesh, np.array([[1, 0, 1], [0, 0, 0]], np.float32), "a:2;b:3")
    shape = mtf.convert_to_shape("a:2")
    assert mtf.to_numpy(soft_dice(truth, truth, shape)).tolist() == [1.0, 1.0]
    wrong = mtf.to_numpy(soft_dice(1.0 - truth, truth, shape, smoothing=1e-6))
    assert_close(wrong, [1e-6 / 3, 1e-6 / 3])


def test_an_evaluation_counts_the_pixels_of_images_that_are_not_padding() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, batch = small_unet(mesh, widths=(4, 4)), segmented_batch()
    features = on_mesh(mesh, batch)
    loss = mtf.to_numpy(model.loss(features, training=False))
    predicted = mtf.to_numpy(model.logits(features)).argmax(axis=-1)[:3]
    expected = np.zeros([NUM_CLASSES, NUM_CLASSES])
    np.add.at(expected, (batch["masks"][:3], predicted), 1)
    assert loss.metrics[CONFUSION_MATRIX].total.tolist() == expected.tolist()
    right = np.trace(expected) / expected.sum()
    assert_close(loss.metrics["accuracy"].total / 3, right, FLOAT32_MODEL_TOLERANCE)


class _Copy(SegmentationModel):
    """The class of a pixel is its brightness, images being their masks."""

    def _segment(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        flat = mtf.reshape(images, images.shape - images.shape.dims[-1])
        return 3.0 * mtf.one_hot(mtf.to_int32(flat), self._classes)


_GREY = "rows:8;cols:8;channels:1"
_GREY_VOLUME = "depth:4;rows:8;cols:8;channels:1"
_ALL_AXES = ("depth", "rows", "cols")


@pytest.mark.parametrize(
    ("mesh_shape", "layout", "size", "flip"),
    [
        (ONE_DEVICE, "", _GREY, True),
        (ONE_DEVICE, "", _GREY_VOLUME, _ALL_AXES),
        *(
            pytest.param("data:2,model:2", *case, marks=pytest.mark.slow)
            for case in [
                ("rows:data;cols:model", _GREY, True),
                ("depth:data;rows:model", _GREY_VOLUME, _ALL_AXES),
            ]
        ),
    ],
)
def test_masks_are_shifted_and_flipped_with_their_images(
    mesh_shape: str, layout: str, size: str, flip: bool | Sequence[str]
) -> None:
    mesh = mtf.Mesh(mesh_shape, layout)
    image = mtf.convert_to_shape(size)
    batch = segmented_batch(image)
    batch["images"] = batch["masks"][..., np.newaxis]
    moving = ImageInput(mean=0.0, stddev=1.0, crop_padding=2, flip=flip)
    model = _Copy(NUM_CLASSES, moving, SegmentationLoss())
    features = on_mesh(mesh, batch, image)

    def losses(features: dict[str, mtf.Tensor]) -> list[Loss]:
        keys = [mtf.random_key(1), mtf.random_key(2)]
        trained = [model.loss(features, training=True, key=key) for key in keys]
        return [*trained, model.loss(features, training=False)]

    moved, others, still = mtf.to_numpy(mtf.function(losses)(features))
    # Wherever the pixels went, the classes of all are right.
    assert all(x.metrics["accuracy"].total == 3 for x in (moved, others, still))
    assert len({float(x.total) for x in (moved, others, still)}) == 3


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(InputError, match="are both 0"):
        SegmentationLoss(0.0, 0.0)
    with pytest.raises(InputError, match="dice"):
        SegmentationLoss(dice=-1.0)
    mesh = mtf.Mesh(ONE_DEVICE)
    with pytest.raises(InputError, match="no cutout"):
        UNet(mesh, 3, IMAGES, image_input=ImageInput(cutout=2))
    with pytest.raises(InputError, match="2 to 256 classes, not 1"):
        UNet(mesh, 1, IMAGES)
