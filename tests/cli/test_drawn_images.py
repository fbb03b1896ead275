"""A model of pixels: it is trained, draws images into PNG files, and completes others."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import error_line, mtfrun_here

SMALL = [
    *("--gin.NUM_LAYERS=1", "--gin.D_MODEL=16", "--gin.D_FF=16", "--gin.NUM_HEADS=2"),
    *("--gin.D_KV=8", "--gin.TRAIN_STEPS=3", "--gin.EVAL_AT_START=False"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        process = mtfrun_here(
            "train", "--gin_file=runs/digit_pixels.gin", *SMALL, f"--model_dir={folder / 'run'}"
        )
    assert process.returncode == 0, process.stderr.decode()
    assert b"bits_per_byte" in process.stderr
    return folder / "run"


def _decode(trained: pathlib.Path, *flags: str) -> list[str]:
    return ["decode", f"--model_dir={trained}", *flags]


@pytest.mark.slow
def test_images_are_completed_below_the_rows_that_are_kept(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [3, 8, 8]).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    flags = [f"--input={tmp_path}", f"--output={tmp_path / 'drawn.jsonl'}"]
    process = mtfrun_here(*_decode(trained, *flags, "--num_outputs=2", "--gin.KEPT_ROWS=5"))
    assert process.returncode == 0, process.stderr.decode()
    lines = (tmp_path / "drawn.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [
        [f"{i}_{j}.png" for j in range(2)] for i in range(3)
    ]
    assert len(list((tmp_path / "drawn_files").iterdir())) == 6
    drawn = [
        [np.asarray(Image.open(tmp_path / "drawn_files" / f"{i}_{j}.png")) for j in range(2)]
        for i in range(3)
    ]
    for image, outputs in zip(images, drawn, strict=True):
        for output in outputs:
            np.testing.assert_array_equal(output[:5], image[:5])
        assert np.any(outputs[0][5:] != outputs[1][5:])


@pytest.mark.slow
def test_what_cannot_be_drawn_is_one_line(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = mtfrun_here(*_decode(trained, "--input=split:test"))
    assert "give --output=FILE.jsonl" in error_line(process)
    output = f"--output={tmp_path / 'x.jsonl'}"
    process = mtfrun_here(*_decode(trained, "--input=split:test", output, "--gin.KEPT_ROWS=8"))
    assert "kept_rows=8 leaves nothing to draw of 8 rows" in error_line(process)
    process = mtfrun_here(*_decode(trained, "--prompt=a", output))
    assert "give images with --input=FILE" in error_line(process)
    process = mtfrun_here("score", f"--model_dir={trained}", "--input=split:test", output)
    assert "ImageSampling scores no pairs" in error_line(process)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x_files").touch()
    process = mtfrun_here(*_decode(trained, "--input=split:test", output))
    assert "cannot write into" in error_line(process)
    assert not (tmp_path / "x.jsonl").exists()
