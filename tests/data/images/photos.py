"""Photographs for tests: smooth images of a size, and folders of them."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image


def photo(rows: int, cols: int, seed: int = 0, hue: int = 0) -> np.ndarray:
    """Returns a smooth image in colour, whose channel `hue` is bright; uint8 [rows, cols, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 128, [4, 4, 3]).astype(np.uint8)
    coarse[:, :, hue] += 127
    return np.asarray(Image.fromarray(coarse).resize((cols, rows), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def save_folders(directory: pathlib.Path, names: Sequence[str], count: int) -> None:
    """Saves a folder of photographs of different sizes for each class, whose hue is its number."""
    rng = np.random.default_rng(len(names))
    for hue, name in enumerate(names):
        (directory / name).mkdir(parents=True)
        for number in range(count):
            rows, cols = rng.integers(20, 60, 2)
            pixels = photo(rows, cols, number, hue)
            # One of five is no JPEG, as in datasets from the web.
            if number % 5 == 4:
                Image.fromarray(pixels).save(directory / name / f"{number:04}.png")
            else:
                (directory / name / f"{number:04}.JPEG").write_bytes(jpeg(pixels))
