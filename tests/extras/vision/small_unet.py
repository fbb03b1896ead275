"""A U-Net small enough to train in a test, and batches of images or volumes with masks for it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.experiment import Experiment
from mtfrun.extras.vision import (
    DrawnShapes,
    Segmentation,
    SegmentationData,
    SegmentationLoss,
    UNet,
    UNetStages,
)
from tests.layouts import ONE_DEVICE

NUM_CLASSES = 3
IMAGES = mtf.convert_to_shape("rows:8;cols:8;channels:2")
VOLUMES = mtf.convert_to_shape("depth:4;rows:4;cols:4;channels:1")
BATCH = 4


def small_unet(
    mesh: mtf.Mesh,
    image: mtf.Shape = IMAGES,
    loss: SegmentationLoss = SegmentationLoss(),
    **stages: Any,
) -> UNet:
    """Returns three stages for images, two for volumes; `stages`: of its `UNetStages`."""
    widths = [4, 6, 8] if image.ndims == 3 else [4, 6]
    model = UNet(
        *(mesh, NUM_CLASSES, image), stages=UNetStages(**{"widths": widths, **stages}), loss=loss
    )
    mtf.initialize(model, seed=2)
    return model


def shapes_of(image: mtf.Shape = IMAGES, batch: int = BATCH) -> dict[str, mtf.Shape]:
    """Returns the shapes of the features by name."""
    rows = mtf.Shape([mtf.Dimension("batch", batch)])
    masks = rows + mtf.Shape(image.dims[:-1])
    return {"images": rows + image, "masks": masks, "weights": rows}


def segmented_batch(image: mtf.Shape = IMAGES, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns images that are brighter the larger the class of a pixel; the last is padding."""
    rng = np.random.default_rng(seed)
    shapes = {name: shape.to_integer_list for name, shape in shapes_of(image).items()}
    masks = rng.integers(0, NUM_CLASSES, shapes["masks"]).astype(np.uint8)
    noise = rng.integers(0, 60, shapes["images"])
    images = (noise + 60 * masks[..., np.newaxis]).astype(np.uint8)
    return {"images": images, "masks": masks, "weights": np.array([1, 1, 1, 0], np.int32)}


def on_mesh(
    mesh: mtf.Mesh, batch: dict[str, np.ndarray], image: mtf.Shape = IMAGES
) -> dict[str, mtf.Tensor]:
    """Returns the features as tensors."""
    shapes = shapes_of(image, len(batch["weights"]))
    return {name: mtf.import_tf_tensor(mesh, x, shapes[name]) for name, x in batch.items()}


def segmentation_of(source: DrawnShapes, layout: str = "", mesh: str = ONE_DEVICE) -> Segmentation:
    """Returns the inference of an untrained network."""
    stages = UNetStages(widths=(4, 6), num_convolutions=1)
    experiment = Experiment(
        mtf.Mesh(mesh, layout),
        functools.partial(UNet, stages=stages),
        SegmentationData(source),
        inference=functools.partial(Segmentation, batch_size=2),
    )
    mtf.initialize(experiment.model, seed=1)
    assert isinstance(experiment.inference, Segmentation)
    return experiment.inference
