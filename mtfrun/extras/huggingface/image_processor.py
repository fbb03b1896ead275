from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.tables.folder import PREPROCESSOR_CONFIG, Folder
from mtfrun.extras.huggingface.tables.settings import Settings

# Defaults without a file: the usual size, and ImageNet's mean and standard deviation, as in
# transformers/image_utils.py.
_SIZE = 224
_MEAN, _STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Classes with "crop_pct" do not crop larger images.
_LARGEST_CROPPED = 384


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Scales the shorter side to `resize` and crops `size`; `mean` is for pixels up to 255."""

    size: int
    resize: int
    mean: Sequence[float] | float
    stddev: Sequence[float] | float
    notes: Sequence[str] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        file.macro("IMAGE_SIZE", self.size)
        file.bind("data.ImageData", {"image_size": reference("%IMAGE_SIZE"), "resize": self.resize})
        # Data files set the macros of models/resnet.gin.
        file.bind(
            "resnet.ImageInput",
            {"mean": self.mean, "stddev": self.stddev},
            comment="of the pixels that the model was trained on",
        )


def read_image_processor(folder: Folder, channels: int) -> ImageProcessor:
    if not folder.has(PREPROCESSOR_CONFIG):
        is_colour = channels == len(_MEAN)
        return ImageProcessor(
            _SIZE,
            round(_SIZE * 256 / 224),
            _divide(_MEAN, 1 / 255) if is_colour else 127.5,
            _divide(_STDDEV, 1 / 255) if is_colour else 127.5,
            [f"there is no {PREPROCESSOR_CONFIG}: see resnet.ImageInput in config.gin"],
        )
    where = str(folder.path / PREPROCESSOR_CONFIG)
    settings = Settings(folder.json_of(PREPROCESSOR_CONFIG), where)
    size, resize, notes = _sizes(settings)
    scale = settings.number("rescale_factor", 1 / 255)
    if not settings.flag("do_rescale", default=True):
        scale = 1.0
    mean: Sequence[float] = [0.0]
    stddev: Sequence[float] = [1.0]
    if settings.flag("do_normalize", default=True):
        mean = _per_channel(settings, "image_mean", channels, 0.5)
        stddev = _per_channel(settings, "image_std", channels, 0.5)
    if scale <= 0 or min(stddev) <= 0:
        raise settings.error("image_std", "and rescale_factor must be above 0")
    # (scale * pixel - mean) / stddev, for pixels from 0 to 255.
    return ImageProcessor(size, resize, _divide(mean, scale), _divide(stddev, scale), notes)


def _sizes(settings: Settings) -> tuple[int, int, list[str]]:
    size = _side(settings, "size", _SIZE)
    if settings.flag("do_center_crop", default=False):
        crop = _side(settings, "crop_size", size)
        return crop, max(size, crop), []
    if "crop_pct" in settings.values and size < _LARGEST_CROPPED:
        fraction = settings.number("crop_pct", 224 / 256)
        if not 0 < fraction <= 1:
            raise settings.error("crop_pct", "must be above 0, and at most 1")
        return size, int(size / fraction), []
    note = f"{settings.where} squeezes images into squares: here they are scaled and cropped"
    return size, size, [note]


def _side(settings: Settings, name: str, default: int) -> int:
    value = settings.values.get(name)
    sides: dict[str, Any] = value if type(value) is dict else {name: value}
    lengths = [length for length in sides.values() if length is not None] or [default]
    if any(type(length) is not int or length < 1 for length in lengths):
        raise settings.error(name, "must be a number of pixels")
    if len(set(lengths)) > 1:
        raise settings.error(name, "is not supported: images must be square")
    return int(lengths[0])


def _per_channel(settings: Settings, name: str, channels: int, default: float) -> list[float]:
    values = settings.values.get(name)
    values = default if values is None else values
    numbers = list(values) if type(values) is list else [values]
    if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise settings.error(name, "must be a list of numbers")
    if len(numbers) not in (1, channels):
        raise settings.error(name, f"must have {channels} numbers, one for each channel")
    return [float(x) for x in numbers]


def _divide(numbers: Sequence[float], scale: float) -> list[float] | float:
    """Returns numbers / scale, rounded to ten digits."""
    quotients = [float(f"{number / scale:.10g}") for number in numbers]
    return quotients if len(quotients) > 1 else quotients[0]
