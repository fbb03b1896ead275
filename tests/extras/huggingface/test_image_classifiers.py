"""Classifiers of images of transformers: the same logits, training, and the same bytes back."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtfrun import mtf
from mtfrun.experiment.conversion import values_of_run
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.families.images import ImageProcessor, read_image_processor
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.rundir import RunDirectory
from tests.cli.command import mtfrun_here
from tests.extras.huggingface.imported_models import (
    LOGITS_TOLERANCE,
    Imported,
    assert_same_folder,
    exported,
    imported,
    imported_folder,
    run_program,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

ONE_DEVICE: dict[str, Any] = {}
MESHES: dict[str, dict[str, Any]] = {
    "one device": ONE_DEVICE,
    "batch and channels": {"mesh": "data:2,model:2"},
    "rows and columns": {
        **{"mesh": "rows:2,cols:2", "LAYOUT": "row_blocks:rows;col_blocks:cols"},
        **{"ROW_BLOCKS": 2, "COL_BLOCKS": 2},
    },
}
PROGRAM = pathlib.Path(__file__).with_name("transformers_images.py")
NAMES = ["resnet", "resnet_basic", "vit", "convnext"]
# A row of patches has no blocks of rows and columns.
CASES = [
    pytest.param(name, where, marks=[] if where == "one device" else [pytest.mark.slow])
    for name in NAMES
    for where in MESHES
    if (name, where) != ("vit", "rows and columns")
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Imported]:
    """The stored models by their names."""
    directory = tmp_path_factory.mktemp("folders")
    return {name: imported(name, directory) for name in NAMES}


@pytest.mark.parametrize(("name", "where"), CASES)
def test_logits_are_those_of_transformers(
    models: Mapping[str, Imported], name: str, where: str
) -> None:
    case = models[name].case
    images = case["pixel_values"].transpose(0, 2, 3, 1)
    if where == "batch and channels" and len(images) % 2:  # an even batch: twice the first image
        images = np.concatenate([images, images[:1]])
    actual = logits(models[name], images, MESHES[where])
    assert_close(actual[: len(case["logits"])], case["logits"], LOGITS_TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_has_the_bytes_of_the_import(models: Mapping[str, Imported], name: str) -> None:
    assert_same_folder(exported(models[name]), models[name].folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("resnet_basic", "rows and columns"),
        ("convnext", "batch and channels"),
        ("vit", "batch and channels"),
    ],
)
def test_a_step_of_training_is_that_of_one_device(
    models: Mapping[str, Imported], name: str, where: str, tmp_path: pathlib.Path
) -> None:
    size = {} if name == "resnet_basic" else {"IMAGE_SIZE": 16}
    results = [
        values_of_run(
            RunDirectory(
                trained_one_step(models[name], tmp_path / str(i), {**MESHES[mesh], **size})
            )
        ).values
        for i, mesh in enumerate(("one device", where))
    ]
    before = values_of_run(RunDirectory(models[name].run)).values
    assert results[0].keys() == results[1].keys() == before.keys()
    for path, expected in results[0].items():
        assert not np.array_equal(expected, before[path]), path
        if path.endswith("key_bias"):  # its gradient is 0 but for rounding
            continue
        assert_close(results[1][path], expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_transformers_loads_what_is_exported(
    models: Mapping[str, Imported], tmp_path: pathlib.Path
) -> None:
    run_program(PROGRAM, "make", tmp_path)
    folders = sorted(path for path in tmp_path.iterdir())
    tuned = trained_one_step(models["resnet_basic"], tmp_path / "tuned", ONE_DEVICE)
    runs = [imported_folder(path.name, path) for path in folders]
    targets = [exported(run) for run in runs]
    for target, folder in zip(targets, folders, strict=True):
        assert_same_folder(target, folder)
    runs.append(Imported("tuned", tmp_path, tuned))
    targets.append(exported(runs[-1]))
    run_program(PROGRAM, "logits", *targets)
    for run, target in zip(runs, targets, strict=True):
        expected = np.load(target / "logits.npy")
        config = json.loads((target / "config.json").read_text())
        size = config.get("image_size")
        shape = [2, config["num_channels"], *((48, 64) if size is None else (size, size))]
        images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert_close(logits(run, images.transpose(0, 2, 3, 1)), expected, LOGITS_TOLERANCE)


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


STATISTICS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _read(directory: pathlib.Path, values: dict[str, Any], channels: int = 3) -> ImageProcessor:
    (directory / "preprocessor_config.json").write_text(json.dumps(values))
    return read_image_processor(Folder(directory), channels)


@pytest.mark.parametrize(
    "values, size, resize",
    [
        # The file of microsoft/resnet-50, and its form of today.
        ({"size": 224, "crop_pct": 0.875}, 224, 256),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 384),
        ({"size": {"height": 64, "width": 64}}, 64, 64),
        ({"size": 70, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}, 64, 70),
    ],
)
def test_the_shorter_side_is_scaled_before_the_centre_is_cut_out(
    tmp_path: pathlib.Path, values: dict[str, Any], size: int, resize: int
) -> None:
    processor = _read(tmp_path, {**values, **STATISTICS})
    assert (processor.size, processor.resize) == (size, resize)
    is_squeezed = size == resize
    assert bool(processor.notes) == is_squeezed


@pytest.mark.parametrize(
    "values, mean, stddev",
    [
        (STATISTICS, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ({"image_mean": 0.5, "image_std": 0.5}, 127.5, 127.5),
        ({"do_normalize": False}, 0.0, 255.0),
        ({**STATISTICS, "do_rescale": False}, STATISTICS["image_mean"], STATISTICS["image_std"]),
    ],
)
def test_mean_and_deviation_are_those_of_pixels(
    tmp_path: pathlib.Path, values: dict[str, Any], mean: object, stddev: object
) -> None:
    processor = _read(tmp_path, values)
    assert np.allclose(processor.mean, mean) and np.allclose(processor.stddev, stddev)  # type: ignore[arg-type]


def test_a_folder_without_the_file_has_the_statistics_of_imagenet(tmp_path: pathlib.Path) -> None:
    processor = read_image_processor(Folder(tmp_path), 3)
    assert processor.mean == [123.675, 116.28, 103.53] and len(processor.notes) == 1
    assert read_image_processor(Folder(tmp_path), 1).mean == 127.5


@pytest.mark.parametrize(
    "values, message",
    [
        ({"size": "large"}, "size='large' must be a number of pixels"),
        ({"size": {"height": 3, "width": 4}}, "images must be square"),
        ({"image_mean": [1.0, 2.0]}, "image_mean=.* must have 3 numbers"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std=.* must be above 0"),
        ({"image_mean": ["a"]}, "must be a list of numbers"),
        ({"size": 8, "crop_pct": 2.0}, "crop_pct=2.0 must be above 0"),
    ],
)
def test_impossible_values_are_refused(
    tmp_path: pathlib.Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        _read(tmp_path, values)
