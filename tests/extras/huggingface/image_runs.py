"""Imported models of images: their logits, and a step of training."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from PIL import Image

from mtfrun import mtf
from tests.cli.command import mtfrun_here
from tests.extras.huggingface.imported_models import Imported

# Every file of a mesh gives the same numbers.
ONE_DEVICE: dict[str, Any] = {}
BATCH_AND_CHANNELS: dict[str, Any] = {"mesh": "data:2,model:2"}
ROWS_AND_COLUMNS: dict[str, Any] = {
    "mesh": "rows:2,cols:2",
    "LAYOUT": "row_blocks:rows;col_blocks:cols",
    "ROW_BLOCKS": 2,
    "COL_BLOCKS": 2,
}


def logits(
    model: Imported, images: np.ndarray, settings: dict[str, Any] = ONE_DEVICE
) -> np.ndarray:
    """Returns [batch, classes] for normalised images [batch, rows, cols, channels]."""
    experiment = model.opened(**settings).experiment
    sizes = zip(("batch", "rows", "cols", "channels"), images.shape, strict=True)
    shape = mtf.Shape([mtf.Dimension(name, size) for name, size in sizes])
    tensor = mtf.import_tf_tensor(experiment.mesh, images, shape)

    def model_logits(images: mtf.Tensor) -> mtf.Tensor:
        return experiment.model.logits({"images": images})

    return np.asarray(mtf.to_numpy(mtf.function(model_logits)(tensor)))


def trained_one_step(
    model: Imported, model_dir: pathlib.Path, settings: dict[str, Any]
) -> pathlib.Path:
    """Returns the directory of a run that begins with a model of five classes, after one step."""
    directory = model_dir.parent / "images"
    labels = [f"LABEL_{number}" for number in range(5)]
    if not directory.exists():
        rng = np.random.default_rng(0)
        for label in labels:
            (directory / label).mkdir(parents=True)
            for i in range(4):
                pixels = rng.integers(0, 256, [64, 64, 3]).astype(np.uint8)
                Image.fromarray(pixels).save(directory / label / f"{i}.png")
    values: dict[str, object] = {
        "IMAGES_DIR": {"train": str(directory), "validation": str(directory)},
        "IMAGE_SIZE": 64,
        "BATCH_SIZE": 4,
        "TRAIN_STEPS": 1,
        "EVAL_EVERY": None,
        "optim.Product.factors": [0.1],  # the schedule would begin with 0
        "CROP": None,
        **{name: value for name, value in settings.items() if name != "mesh"},
        "MESH_SHAPE": settings.get("mesh", "data:1,model:1"),
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    process = mtfrun_here(
        "train",
        f"--gin_file={model.run}/config.gin",
        "--gin_file=data/image_folders.gin",
        *flags,
        f"--model_dir={model_dir}",
    )
    assert process.returncode == 0, process.stderr.decode()
    return model_dir
