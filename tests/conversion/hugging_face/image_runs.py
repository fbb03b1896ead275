"""Runs made of models of images: their import, their logits, a step of training."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from mtfrun import mtf
from mtfrun.api.opening import opened, restored, trained_run
from mtfrun.api.settings import Settings, literal_bindings
from tests.cli.command import mtfrun_here

# Every file of a mesh gives the same numbers.
ONE_DEVICE: dict[str, object] = {}
BATCH_AND_CHANNELS: dict[str, object] = {"MESH_SHAPE": "data:2,model:2"}
ROWS_AND_COLUMNS: dict[str, object] = {
    "MESH_SHAPE": "rows:2,cols:2",
    "LAYOUT": "row_blocks:rows;col_blocks:cols",
    "ROW_BLOCKS": 2,
    "COL_BLOCKS": 2,
}


def imported(folder: pathlib.Path, model_dir: pathlib.Path) -> pathlib.Path:
    """Returns the directory of the run that is made of a folder."""
    process = mtfrun_here("import", f"--from={folder}", f"--model_dir={model_dir}")
    assert process.returncode == 0, process.stderr.decode()
    return model_dir


def exported(model_dir: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Returns the folder that a run is written to."""
    process = mtfrun_here(
        "export", f"--model_dir={model_dir}", f"--to={target}", "--format=huggingface"
    )
    assert process.returncode == 0, process.stderr.decode()
    return target


def logits(
    model_dir: pathlib.Path, images: np.ndarray, settings: dict[str, object] = ONE_DEVICE
) -> np.ndarray:
    """Returns [batch, classes] for normalised images [batch, rows, cols, channels]."""
    run = trained_run(str(model_dir))
    config = Settings([run.config_path], literal_bindings(settings))
    experiment = opened(run, config).experiment
    restored(experiment, run, None)
    shape = mtf.Shape(
        mtf.Dimension(name, size)
        for name, size in zip(("batch", "rows", "cols", "channels"), images.shape, strict=True)
    )
    tensor = mtf.import_tf_tensor(experiment.mesh, images, shape)
    return np.asarray(mtf.to_numpy(mtf.function(experiment.model.logits)({"images": tensor})))


def trained_one_step(
    run: pathlib.Path, model_dir: pathlib.Path, settings: dict[str, object]
) -> pathlib.Path:
    """Returns the directory of a run that begins with another one, after one step."""
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
        **settings,
    }
    flags = [f"--gin.{name}={value!r}" for name, value in values.items()]
    process = mtfrun_here(
        "train",
        f"--gin_file={run}/config.gin",
        "--gin_file=data/image_folders.gin",
        *flags,
        f"--model_dir={model_dir}",
    )
    assert process.returncode == 0, process.stderr.decode()
    return model_dir
