"""Sizes and normalisation of images, from preprocessor_config.json."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun.tools.conversion.hugging_face.folder import Folder
from mtfrun.tools.conversion.hugging_face.image_processor import (
    ImageProcessor,
    read_image_processor,
)
from mtfrun.tools.conversion.importer import ConversionError

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
