"""SavedModels of models of images answer as `mtfrun decode` does."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

import mtfrun
from mtfrun.extras.vision import Segmentation
from tests.cli.command import mtfrun_here, succeeded
from tests.experiment.runs.tiny_runs import files_and_params
from tests.extras.saved_model.serving import Request, exported, responses

# Of probabilities: pixels of scaled files differ a little, see docs/extras/saved_model.md.
TOLERANCE = 0.02
FLAGS = [
    "--gin_file=runs/digits.gin",
    "--gin.STAGE_SIZES=[1]",
    "--gin.WIDTHS=[4]",
    "--gin.TRAIN_STEPS=3",
    "--gin.ITERATIONS_PER_LOOP=2",
]


@pytest.mark.slow
def test_files_and_pixels_get_the_labels_of_decode(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    files, params = files_and_params(FLAGS)
    run = mtfrun.train(files, tmp_path / "run", gin_params=params)
    directory = exported(tmp_path / "run", tmp_path / "saved", "--top_k=10")
    paths = []
    generator = np.random.default_rng(0)
    for number, (sizes, suffix) in enumerate(
        [((8, 8), "png"), ((40, 33, 3), "png"), ((30, 50, 3), "jpg"), ((25, 9, 4), "png")]
    ):
        path = tmp_path / f"{number}.{suffix}"
        Image.fromarray(generator.integers(0, 256, sizes, np.uint8)).save(path)
        paths.append(path)
    expected = succeeded(
        mtfrun_here(
            "decode", f"--model_dir={run.model_dir}", f"--input={tmp_path}/*.*g", "--top_k=10"
        )
    )
    pixels = np.asarray(Image.open(paths[0])).reshape(1, 8, 8, 1)
    by_file, by_pixel = responses(
        directory,
        [
            ("classify_encoded", {"image_bytes": [path.read_bytes() for path in paths]}),
            ("classify", {"images": pixels}),
        ],
    )
    names = ("label", "labels", "probabilities")
    rows = zip(*(by_file[name] for name in names), expected, strict=True)
    for label, labels, probabilities, line in rows:
        top = dict(zip([x.decode() for x in labels], probabilities, strict=True))
        expected_top = {x["label"]: x["probability"] for x in line["top"]}
        assert top == pytest.approx(expected_top, abs=TOLERANCE)
        assert labels[0] == label
    for name in names:
        np.testing.assert_array_equal(by_pixel[name], by_file[name][:1])


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[16, 8], [4, 6, 8]])
def test_images_and_volumes_get_the_masks_of_decode(
    tmp_path: pathlib.Path, sizes: list[int]
) -> None:
    flags = [
        "--gin_file=extras/vision/runs/shapes.gin",
        "--gin.WIDTHS=[2,4]",
        f"--gin.SIZES={sizes}",
    ]
    files, params = files_and_params([*flags, "--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=4"])
    run = mtfrun.train(files, tmp_path / "run", gin_params=params)
    segmentation = run.experiment.inference
    assert isinstance(segmentation, Segmentation)
    generator = np.random.default_rng(0)
    shape = segmentation.data.image.to_integer_list
    images = generator.integers(0, 256, [3, *shape], np.uint8)
    directory = exported(tmp_path / "run", tmp_path / "saved")
    requests: list[Request] = [("segment", {"images": images})]
    if len(sizes) == 2:
        for number, image in enumerate(images):
            Image.fromarray(image[..., 0] if shape[-1] == 1 else image).save(
                tmp_path / f"{number}.png"
            )
        contents = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
        requests.append(("segment_encoded", {"image_bytes": contents}))
    expected = np.stack(segmentation(list(images)))
    for response in responses(directory, requests):
        assert np.array_equal(response["masks"], expected)
    assert len(np.unique(expected)) > 1
