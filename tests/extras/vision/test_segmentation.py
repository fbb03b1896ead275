"""Segmentation with an untrained network, and the scores of masks."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mtfrun import mtf
from mtfrun.experiment import Evaluation
from mtfrun.experiment.records import Images
from mtfrun.extras import vision
from mtfrun.extras.vision import DrawnShapes, SegmentationScores, SegmentedImages
from mtfrun.extras.vision.segmentation.evaluators import overlap_scores
from mtfrun.extras.vision.segmentation.inference import encode_mask
from mtfrun.metrics.event_files import Summaries
from mtfrun.models import NonFiniteError
from tests.extras.vision.small_unet import segmentation_of
from tests.layouts import assert_close

IMAGES = DrawnShapes(sizes=(8, 16), num_train=4, num_evaluated=3)
VOLUMES = DrawnShapes(sizes=(4, 6, 8), num_train=4, num_evaluated=3)


@pytest.mark.parametrize("source", [IMAGES, VOLUMES])
def test_a_mask_has_the_most_probable_class_of_every_pixel(source: DrawnShapes) -> None:
    segmentation = segmentation_of(source)
    images = [source.example("train", i).image for i in range(3)]
    done: list[int] = []
    masks = segmentation(images, done.append)
    assert done == [2, 3] and all(mask.shape == tuple(source.sizes) for mask in masks)
    experiment = segmentation.experiment
    shape = experiment.data.shapes(3)["images"]
    batch = mtf.import_tf_tensor(experiment.mesh, np.stack(images), shape)
    logits = mtf.to_numpy(experiment.model.logits({"images": batch}))
    assert np.array_equal(np.stack(masks), logits.argmax(axis=-1))
    assert len(np.unique(masks)) > 1


def test_logits_that_are_not_finite_are_refused() -> None:
    segmentation = segmentation_of(IMAGES)
    bias = segmentation.experiment.model.named_variables()["softmax/bias"]
    values = np.array([0.0, np.nan, 0.0, 0.0], np.float32)
    mtf.assign(bias, mtf.import_tf_tensor(bias.mesh, values, bias.shape))
    with pytest.raises(NonFiniteError, match="softmax/bias"):
        segmentation([IMAGES.example("train", 0).image])


@pytest.mark.slow
def test_parts_of_images_on_devices_have_the_same_masks() -> None:
    images = [IMAGES.example("train", i).image for i in range(3)]
    expected = segmentation_of(IMAGES)(images)
    masks = segmentation_of(IMAGES, "rows:data;cols:model", "data:2,model:2")(images)
    assert np.array_equal(masks, expected)


@pytest.mark.parametrize("source", [IMAGES, VOLUMES])
def test_a_record_has_the_pixels_of_every_class_and_the_mask_as_a_png(source: DrawnShapes) -> None:
    segmentation = segmentation_of(source)
    image = source.example("train", 0).image
    (mask,) = segmentation([image])
    (record,) = segmentation.records(Images(1, [(image, {"file": "a.png"})]))
    counts = {name: int((mask == i).sum()) for i, name in enumerate(source.class_names)}
    assert record.fields["file"] == "a.png" and record.fields["pixels"] == counts
    assert record.texts[0].startswith("a.png\t")
    assert record.fields["mask"] == "0.png"
    with Image.open(io.BytesIO(record.files["0.png"])) as decoded:
        assert np.array_equal(np.asarray(decoded).reshape(mask.shape), mask)


def test_the_colours_of_a_mask_tell_classes_apart() -> None:
    png = encode_mask(np.arange(4, dtype=np.uint8).reshape(2, 2))
    with Image.open(io.BytesIO(png)) as decoded:
        colours = np.asarray(decoded.convert("RGB")).reshape(-1, 3)
    assert colours[0].tolist() == [0, 0, 0] and len(np.unique(colours, axis=0)) == 4


def test_scores_are_ratios_of_pixels_and_a_class_without_any_has_none() -> None:
    counts = np.array([[50, 2, 0, 0], [4, 6, 0, 0], [0, 0, 8, 0], [0, 0, 0, 0]], np.float64)
    scores = overlap_scores(counts, ("background", "disc", "box", "star"))
    assert_close(scores.pop("dice/disc"), 12 / 18)
    assert_close(scores.pop("iou/disc"), 6 / 12)
    assert_close(scores.pop("mean_dice"), (12 / 18 + 1) / 2)
    assert_close(scores.pop("mean_iou"), 0.75)
    assert scores == {"dice/box": 1.0, "iou/box": 1.0}
    assert overlap_scores(np.zeros([2, 2]), ("background", "disc")) == {}


@pytest.mark.parametrize("source", [IMAGES, VOLUMES])
def test_scores_of_a_split_are_those_of_its_masks(
    source: DrawnShapes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    segmentation = segmentation_of(source)
    evaluators = [SegmentationScores, SegmentedImages]
    evaluation = Evaluation(segmentation.experiment, 2, evaluators=evaluators)
    summaries = Summaries(str(tmp_path_factory.mktemp("summaries")))
    metrics = evaluation(0, summaries)
    examples = [source.example("validation", i) for i in range(3)]
    predicted = np.stack(segmentation([example.image for example in examples]))
    true = np.stack([example.mask for example in examples])
    for i, name in enumerate(source.class_names[1:], 1):
        either = ((predicted == i) | (true == i)).sum()
        if either:
            both = ((predicted == i) & (true == i)).sum()
            assert_close(metrics[f"iou/{name}"], both / either)
    assert_close(metrics["accuracy"], (predicted == true).mean())


def test_a_picture_has_a_row_for_every_image() -> None:
    image, mask = IMAGES.example("train", 0)
    shown = [(image, mask, np.zeros_like(mask))] * 3
    picture = vision.segmented_images(shown, IMAGES.class_names)
    lower = vision.segmented_images(shown[:1], IMAGES.class_names)
    assert picture.shape[1] == lower.shape[1] == 350 and picture.shape[0] > 2 * lower.shape[0]
