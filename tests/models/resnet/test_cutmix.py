"""CutMix: rectangles, labels by area, layouts."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call
from mtfrun.models.resnet import ImageLoss, cut_rectangles, paste_previous, uncut_fraction
from tests.layouts import ONE_DEVICE, assert_close

BATCH, ROWS, COLS = 64, 9, 12
SHAPE = mtf.convert_to_shape(f"batch:{BATCH};rows:{ROWS};cols:{COLS};channels:2")
WEIGHTS = np.ones([BATCH], np.float32)


def _images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE.to_integer_list).astype(np.float32)


@functools.cache
def _cut(
    mesh_shape: str, *, step: int = 0, padding: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns rectangles, images with them and the fractions; the last images are padding."""
    mesh = mtf.Mesh(mesh_shape, "batch:data;channels:model")
    weights = WEIGHTS.copy()
    weights[BATCH - padding :] = 0

    def run(images: mtf.Tensor, weights: mtf.Tensor) -> tuple[mtf.Tensor, ...]:
        rectangles = cut_rectangles(images, weights, mtf.random_key(step), 1.0)
        return rectangles, paste_previous(images, rectangles), uncut_fraction(rectangles)

    return mtf.to_numpy(
        mtf.function(run)(
            mtf.import_tf_tensor(mesh, _images(), SHAPE),
            mtf.import_tf_tensor(mesh, weights, SHAPE.dims[:1]),
        )
    )


def test_every_image_has_one_rectangle_of_the_previous_one() -> None:
    images = _images()
    rectangles, pasted, fractions = _cut(ONE_DEVICE)
    previous = np.roll(images, 1, 0)
    for i, rectangle in enumerate(rectangles):
        inside = rectangle == 1
        rows, cols = inside.any(1), inside.any(0)
        # The product of an interval of rows and one of cols.
        np.testing.assert_array_equal(inside, np.outer(rows, cols))
        for interval in (rows, cols):
            assert np.count_nonzero(np.diff(interval.astype(int), prepend=0) == 1) <= 1
        np.testing.assert_array_equal(
            pasted[i], np.where(inside[:, :, np.newaxis], previous[i], images[i])
        )
        assert fractions[i] == pytest.approx(1 - inside.mean(), abs=1e-6)
    assert len({rectangle.tobytes() for rectangle in rectangles}) > BATCH // 2
    assert not np.array_equal(rectangles, _cut(ONE_DEVICE, step=1)[0])


def test_rectangles_have_the_expected_sides() -> None:
    rectangles, _, _ = _cut(ONE_DEVICE)
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
    rectangles, _, fractions = _cut(ONE_DEVICE, padding=3)
    # The first image follows the last one, which is padding.
    assert not rectangles[0].any() and fractions[0] == 1.0
    assert not rectangles[BATCH - 2 :].any()
    np.testing.assert_array_equal(rectangles[1 : BATCH - 2], _cut(ONE_DEVICE)[0][1 : BATCH - 2])


@pytest.mark.parametrize(
    "mesh_shape", ["data:2,model:2", pytest.param("data:8,model:1", marks=pytest.mark.slow)]
)
def test_every_layout_cuts_the_same_rectangles(mesh_shape: str) -> None:
    for actual, expected in zip(_cut(mesh_shape), _cut(ONE_DEVICE), strict=True):
        np.testing.assert_array_equal(actual, expected)


def _mix(loss: ImageLoss) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    mesh = mtf.Mesh(ONE_DEVICE)

    def run(images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor) -> object:
        return loss.mix(images, labels, weights, Call(training=True, key=mtf.random_key(3)))

    batch = SHAPE.dims[:1]
    return mtf.to_numpy(
        mtf.function(run)(
            mtf.import_tf_tensor(mesh, _images(), SHAPE),
            mtf.import_tf_tensor(mesh, np.arange(BATCH, dtype=np.int32), batch),
            mtf.import_tf_tensor(mesh, WEIGHTS, batch),
        )
    )


def test_labels_are_weighted_by_area() -> None:
    images = _images()
    mixed, ((own, own_part), (other, other_part)) = _mix(ImageLoss(cutmix_alpha=1.0))
    np.testing.assert_array_equal(own, np.arange(BATCH))
    np.testing.assert_array_equal(other, np.roll(own, 1))
    assert_close(own_part + other_part, np.ones([BATCH]))
    unchanged = (mixed == images).all(-1).mean((1, 2))
    assert_close(own_part, unchanged)
    assert 0 < unchanged.min() < 1


def test_with_both_each_image_is_a_mixture_or_has_a_rectangle() -> None:
    mixed, ((_, part), _) = _mix(ImageLoss(mixup_alpha=1.0, cutmix_alpha=1.0))
    of_mixup, ((_, mixup_part), _) = _mix(ImageLoss(mixup_alpha=1.0))
    of_cutmix, ((_, cutmix_part), _) = _mix(ImageLoss(cutmix_alpha=1.0))
    is_mixup = part == mixup_part
    assert 0.25 < is_mixup.mean() < 0.75
    chosen = is_mixup.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(mixed, np.where(chosen, of_mixup, of_cutmix))
    np.testing.assert_array_equal(part, np.where(is_mixup, mixup_part, cutmix_part))


def test_bad_settings_are_errors() -> None:
    with pytest.raises(InputError, match=r"cutmix_alpha is -1\.0: it must be at least 0"):
        ImageLoss(cutmix_alpha=-1.0)
    weights = mtf.ones(mtf.Mesh(ONE_DEVICE), [mtf.Dimension("batch", 2)])
    with pytest.raises(InputError, match="mixup and CutMix need a key in training"):
        ImageLoss(cutmix_alpha=1.0).mix(weights, weights, weights, Call(training=True))
