"""Images that are mixed, or that rectangles are cut from."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.vision import ImageMixing
from mtfrun.extras.vision.mixing import cut_rectangles, mixing_coefficients
from mtfrun.layers import Call
from mtfrun.models.resnet import Blocking, ImageInput, ImageLoss
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.resnet.small_resnet import BATCH, image_batch, on_mesh, small_resnet
from tests.models.small_model import Step, assert_same_step, training_step

ALPHA = 0.4


def _coefficients(mesh: mtf.Mesh, weights: np.ndarray) -> np.ndarray:
    tensor = mtf.import_tf_tensor(mesh, weights, [mtf.Dimension("batch", len(weights))])
    draw = mtf.function(lambda w: mixing_coefficients(w, mtf.random_key(0), ALPHA))
    return mtf.to_numpy(draw(tensor))


def _mixed(images: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Returns every image mixed with the previous one, with numpy."""
    coefficients = coefficients.reshape(-1, 1, 1, 1)
    return coefficients * images + (1 - coefficients) * np.roll(images, 1, 0)


def test_padding_is_not_mixed_into_images() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    coefficients = _coefficients(mesh, np.array([1, 1, 0, 1], np.float32))
    without_padding = _coefficients(mesh, np.ones([4], np.float32))
    assert coefficients[3] == 1.0 and (without_padding < 1.0).all()
    np.testing.assert_array_equal(coefficients[:3], without_padding[:3])


def test_the_loss_is_that_of_both_labels_weighted_by_the_coefficients() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    plain_input = ImageInput(crop_padding=0)
    mixed = ImageLoss(label_smoothing=0.2, mixing=ImageMixing(ALPHA))
    model = small_resnet(mesh, image_input=plain_input, loss=mixed)
    mtf.initialize(model, seed=3)
    batch = image_batch()
    loss, gradients = training_step(model, mesh, {}, on_mesh(mesh, batch))
    key = mtf.random_key(5).fold_in("mixup")
    ones = mtf.ones(mesh, [mtf.Dimension("batch", BATCH)])
    draw = mtf.function(lambda w: mixing_coefficients(w, key, ALPHA))
    coefficients = mtf.to_numpy(draw(ones))
    images = (batch["images"].astype(np.float32) - 127.5) / 127.5
    images = _mixed(images, coefficients).astype(np.float32)
    # The loss is linear in the weights, which here are the coefficients.
    parts = [
        {"images": images, "labels": labels.astype(np.int32), "weights": part.astype(np.float32)}
        for labels, part in (
            (batch["labels"], coefficients),
            (np.roll(batch["labels"], 1), 1 - coefficients),
        )
    ]
    plain = small_resnet(mesh, image_input=plain_input, loss=ImageLoss(label_smoothing=0.2))
    mtf.initialize(plain, seed=3)
    results = [training_step(plain, mesh, {}, on_mesh(mesh, part)) for part in parts]
    assert_close(loss.total, sum(x.loss.total for x in results), FLOAT32_MODEL_TOLERANCE)
    for path, gradient in gradients.items():
        expected = sum(x.gradients[path] for x in results)
        assert_close(gradient, expected, FLOAT32_MODEL_TOLERANCE)
    for name, metric in loss.metrics.items():
        expected_total = sum(x.loss.metrics[name].total for x in results)
        assert_close(metric.total, expected_total, FLOAT32_MODEL_TOLERANCE)
        assert metric.weight == BATCH
    assert loss.metrics["loss"].total != pytest.approx(loss.total)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "layout", "blocks"),
    [
        pytest.param("data:4,model:1", "batch:data", 1, marks=pytest.mark.slow),
        ("data:2,model:2", "row_blocks:data;col_blocks:model", 2),
    ],
)
def test_a_step_with_mixup_is_that_of_one_device(mesh_shape: str, layout: str, blocks: int) -> None:
    def step(mesh_shape: str, layout: str, blocks: int) -> Step:
        mesh = mtf.Mesh(mesh_shape, layout)
        loss = ImageLoss(label_smoothing=0.1, mixing=ImageMixing(ALPHA))
        model = small_resnet(mesh, blocking=Blocking(blocks, blocks), loss=loss)
        mtf.initialize(model, seed=2)
        return training_step(model, mesh, {}, on_mesh(mesh, image_batch()))

    assert_same_step(step(mesh_shape, layout, blocks), step(ONE_DEVICE, "", 1))


CUTMIX_BATCH, ROWS, COLS = 64, 9, 12
SHAPE = mtf.convert_to_shape(f"batch:{CUTMIX_BATCH};rows:{ROWS};cols:{COLS};channels:2")
WEIGHTS = np.ones([CUTMIX_BATCH], np.float32)


def _images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE.to_integer_list).astype(np.float32)


@functools.cache
def _cut(mesh_shape: str, *, step: int = 0, padding: int = 0) -> np.ndarray:
    """Returns rectangles for images of which the last are padding."""
    mesh = mtf.Mesh(mesh_shape, "batch:data;channels:model")
    weights = WEIGHTS.copy()
    weights[CUTMIX_BATCH - padding :] = 0

    def run(images: mtf.Tensor, weights: mtf.Tensor) -> mtf.Tensor:
        return cut_rectangles(images, weights, mtf.random_key(step), 1.0)

    rectangles: np.ndarray = mtf.to_numpy(
        mtf.function(run)(
            mtf.import_tf_tensor(mesh, _images(), SHAPE),
            mtf.import_tf_tensor(mesh, weights, SHAPE.dims[:1]),
        )
    )
    return rectangles


def test_every_image_has_one_rectangle_of_the_previous_one() -> None:
    images = _images()
    mixed, ((_, part), _) = _mix(ImageMixing(cutmix_alpha=1.0))
    previous = np.roll(images, 1, 0)
    for i, image in enumerate(mixed):
        inside = (image != images[i]).all(-1)
        rows, cols = inside.any(1), inside.any(0)
        # The product of an interval of rows and one of cols.
        np.testing.assert_array_equal(inside, np.outer(rows, cols))
        for interval in (rows, cols):
            assert np.count_nonzero(np.diff(interval.astype(int), prepend=0) == 1) <= 1
        expected = np.where(inside[:, :, np.newaxis], previous[i], images[i])
        np.testing.assert_array_equal(image, expected)
        assert part[i] == pytest.approx(1 - inside.mean(), abs=1e-6)
    rectangles = _cut(ONE_DEVICE)
    assert len({rectangle.tobytes() for rectangle in rectangles}) > CUTMIX_BATCH // 2
    assert not np.array_equal(rectangles, _cut(ONE_DEVICE, step=1))


def test_rectangles_have_the_expected_sides() -> None:
    rectangles = _cut(ONE_DEVICE)
    # lambda is uniform: sides of sqrt(1 - lambda), rounded down to even numbers.
    possible = {
        tuple(2 * (int(size * side) // 2) for size in (ROWS, COLS))
        for side in np.sqrt(np.linspace(0, 1, 2000, endpoint=False))
    }
    sides = set()
    for rectangle in rectangles:
        rows, cols = rectangle.any(1), rectangle.any(0)
        if not (rows[[0, -1]].any() or cols[[0, -1]].any()):  # otherwise cut off at the border
            sides.add((np.count_nonzero(rows), np.count_nonzero(cols)))
    assert len(sides) > 3 and sides <= possible | {(0, 0)}
    # Half of the area, less what is cut off.
    assert 0.2 < rectangles.mean() < 0.45


def test_nothing_is_pasted_from_padding() -> None:
    rectangles = _cut(ONE_DEVICE, padding=3)
    # The first image follows the last one, which is padding.
    assert not rectangles[0].any()
    assert not rectangles[CUTMIX_BATCH - 2 :].any()
    np.testing.assert_array_equal(
        rectangles[1 : CUTMIX_BATCH - 2], _cut(ONE_DEVICE)[1 : CUTMIX_BATCH - 2]
    )


@pytest.mark.parametrize(
    "mesh_shape", ["data:2,model:2", pytest.param("data:8,model:1", marks=pytest.mark.slow)]
)
def test_every_layout_cuts_the_same_rectangles(mesh_shape: str) -> None:
    np.testing.assert_array_equal(_cut(mesh_shape), _cut(ONE_DEVICE))


def _mix(mixing: ImageMixing) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    mesh = mtf.Mesh(ONE_DEVICE)

    def run(images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> object:
        return mixing(images, labels, weights, mtf.random_key(3))

    batch = SHAPE.dims[:1]
    return mtf.to_numpy(
        mtf.function(run)(
            mtf.import_tf_tensor(mesh, _images(), SHAPE),
            mtf.import_tf_tensor(mesh, np.arange(CUTMIX_BATCH, dtype=np.int32), batch),
            mtf.import_tf_tensor(mesh, WEIGHTS, batch),
        )
    )


def test_labels_of_both_images_have_their_parts() -> None:
    _, ((own, own_part), (other, other_part)) = _mix(ImageMixing(cutmix_alpha=1.0))
    np.testing.assert_array_equal(own, np.arange(CUTMIX_BATCH))
    np.testing.assert_array_equal(other, np.roll(own, 1))
    assert_close(own_part + other_part, np.ones([CUTMIX_BATCH]))


def test_with_both_each_image_is_a_mixture_or_has_a_rectangle() -> None:
    mixed, ((_, part), _) = _mix(ImageMixing(mixup_alpha=1.0, cutmix_alpha=1.0))
    of_mixup, ((_, mixup_part), _) = _mix(ImageMixing(mixup_alpha=1.0))
    of_cutmix, ((_, cutmix_part), _) = _mix(ImageMixing(cutmix_alpha=1.0))
    is_mixup = part == mixup_part
    assert 0.25 < is_mixup.mean() < 0.75
    chosen = is_mixup.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(mixed, np.where(chosen, of_mixup, of_cutmix))
    np.testing.assert_array_equal(part, np.where(is_mixup, mixup_part, cutmix_part))


def test_bad_settings_are_errors() -> None:
    with pytest.raises(InputError, match=r"mixup_alpha is -0\.1: it must be at least 0"):
        ImageMixing(mixup_alpha=-0.1)
    weights = mtf.ones(mtf.Mesh(ONE_DEVICE), [mtf.Dimension("batch", 2)])
    loss = ImageLoss(mixing=ImageMixing(cutmix_alpha=1.0))
    with pytest.raises(InputError, match="mixing of images needs a key in training"):
        loss.mix(weights, weights, weights, Call(training=True))
