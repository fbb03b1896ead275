"""A residual network small enough to train in a test, and batches of images for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models.resnet import Backbone, Blocking, ImageInput, ImageLoss, ResNet

NUM_CLASSES = 6
BATCH = 8
SIZE = 8
SHAPES = {
    "images": mtf.convert_to_shape(f"batch:{BATCH};rows:{SIZE};cols:{SIZE};channels:3"),
    "labels": mtf.convert_to_shape(f"batch:{BATCH}"),
    "weights": mtf.convert_to_shape(f"batch:{BATCH}"),
}

AUGMENTED = ImageInput(mean=[120.0, 125.0, 130.0], crop_padding=1, flip=True)


def small_resnet(
    mesh: mtf.Mesh,
    *,
    blocking: Blocking = Blocking(),
    image_input: ImageInput = AUGMENTED,
    loss: ImageLoss = ImageLoss(label_smoothing=0.1),
    **backbone: Any,
) -> ResNet:
    """Returns two stages of one block each; `backbone`: further arguments of its `Backbone`."""
    layers = Backbone(**{"stage_sizes": [1, 1], "widths": [4, 8], "init_zero": False, **backbone})
    image = mtf.Shape(SHAPES["images"].dims[1:])
    return ResNet(
        mesh,
        NUM_CLASSES,
        image,
        backbone=layers,
        blocking=blocking,
        image_input=image_input,
        loss=loss,
    )


def image_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the features of a batch of images that are brighter the larger their label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, [BATCH]).astype(np.int32)
    noise = rng.integers(0, 100, SHAPES["images"].to_integer_list)
    images = (noise + 25 * labels.reshape(-1, 1, 1, 1)).astype(np.uint8)
    return {"images": images, "labels": labels, "weights": np.ones([BATCH], np.int32)}


def on_mesh(mesh: mtf.Mesh, batch: dict[str, np.ndarray]) -> dict[str, mtf.Tensor]:
    """Returns the features as tensors."""
    return {
        name: mtf.import_tf_tensor(
            mesh, value, [mtf.Dimension("batch", len(value)), *SHAPES[name].dims[1:]]
        )
        for name, value in batch.items()
    }
