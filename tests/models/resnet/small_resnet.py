"""A residual network small enough to train in a test, and pictures for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models.resnet import ImageInput, ResNet

NUM_CLASSES = 6
BATCH = 8
SIZE = 8
SHAPES = {
    "images": mtf.convert_to_shape(f"batch:{BATCH};rows:{SIZE};cols:{SIZE};channels:3"),
    "labels": mtf.convert_to_shape(f"batch:{BATCH}"),
    "weights": mtf.convert_to_shape(f"batch:{BATCH}"),
}


def small_resnet(mesh: mtf.Mesh, **options: Any) -> ResNet:
    """Returns two stages of a block each, with augmentation and label smoothing."""
    options = {
        "stage_sizes": [1, 1],
        "widths": [4, 8],
        "image_input": ImageInput(mean=[120.0, 125.0, 130.0], crop_padding=1, flip=True),
        "label_smoothing": 0.1,
        "init_zero": False,
        **options,
    }
    image = mtf.Shape(SHAPES["images"].dims[1:])
    return ResNet(mesh, NUM_CLASSES, image, **options)


def pictures(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a batch of pictures that are brighter the larger their label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, [BATCH]).astype(np.int32)
    noise = rng.integers(0, 100, SHAPES["images"].to_integer_list)
    images = (noise + 25 * labels.reshape(-1, 1, 1, 1)).astype(np.uint8)
    return {"images": images, "labels": labels, "weights": np.ones([BATCH], np.int32)}


def on_mesh(mesh: mtf.Mesh, batch: dict[str, np.ndarray]) -> dict[str, mtf.Tensor]:
    """Returns the features as tensors."""
    return {
        name: mtf.import_tf_tensor(
            mesh,
            value,
            [mtf.Dimension("batch", len(value)), *SHAPES[name].dims[1:]],
        )
        for name, value in batch.items()
    }
