"""Caches of images: pixels that are mapped into memory, or image files in one file of records.

A cache is a directory with the images of one split of a source:

  images.bin           uint8 [images, rows, cols, channels], if all images have one size
  images.array_record  else: JPEG and PNG files, each a record that is read by its number
  sizes.npy            of these; int32 [images, 2] rows and columns
  labels.npy           int32 [images] indices of the classes
  manifest.json        counts, hashes, and the sources of the cache, see cache_directory.py
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from mtfrun.data.cache.directory import (
    EVERY_CACHE,
    CacheChoice,
    cache_path,
    open_or_build,
    read_manifest,
    reading,
)
from mtfrun.data.errors import DataError
from mtfrun.data.images.image_files import EncodedImage, PixelImage, StoredImage, size_of
from mtfrun.data.images.image_source import ImageSource
from mtfrun.display import progress

# Version of the format and of the code that makes it; another one is another cache.
FORMAT = 2
# Images between two reports of progress.
_IMAGES_PER_REPORT = 64
PIXELS, RECORDS, SIZES, LABELS = "images.bin", "images.array_record", "sizes.npy", "labels.npy"


class ImageCache:
    """The images of one split of a source, with random access.

    Raises DamagedCacheError if the files or `origin` differ from those written. All images are read
    if `anew`, or if they may have changed.

    Attributes:
      labels: int32 [images].
      pixels: uint8 [images, rows, cols, channels], mapped into memory; None for different sizes.
    """

    def __init__(
        self, directory: Path, origin: Mapping[str, Any] | None = None, *, anew: bool = False
    ):
        self.directory = directory
        self.pixels: np.ndarray | None = None
        has_pixels = (directory / PIXELS).exists()
        names = (PIXELS, LABELS) if has_pixels else (RECORDS, SIZES, LABELS)
        self.manifest = read_manifest(directory, names, origin=origin, anew=anew)
        with reading(directory):
            self.labels: np.ndarray = np.load(directory / LABELS, mmap_mode="r")
            if self.labels.shape != (self.manifest["images"],):
                raise RuntimeError(f"{LABELS} has {len(self.labels)} labels")
            if not 0 <= self.labels.min() <= self.labels.max() < len(self.manifest["label_names"]):
                raise RuntimeError(f"{LABELS} has a label that is not a class")
            if has_pixels:
                self.pixels = self._map_pixels()
                return
            self._sizes: np.ndarray = np.load(directory / SIZES, mmap_mode="r")
            # No reading ahead: records are read at random.
            self._reader = ArrayRecordReader(str(directory / RECORDS), "readahead_buffer_size:0")
            if self._reader.num_records() != len(self):
                raise RuntimeError(f"{RECORDS} has {self._reader.num_records()} images")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["sha256"])

    def images(self, numbers: np.ndarray) -> Sequence[StoredImage]:
        """Returns the images with these numbers, int64 [images], in their order."""
        if self.pixels is not None:
            return [PixelImage(pixels) for pixels in self.pixels[numbers]]
        with reading(self.directory):
            contents = self._reader.read(numbers.tolist())
        channels = self.manifest["size"][-1]
        return [
            EncodedImage(content, (rows, cols), channels)
            for content, (rows, cols) in zip(contents, self._sizes[numbers].tolist(), strict=True)
        ]

    def _map_pixels(self) -> np.ndarray:
        path = self.directory / PIXELS
        shape = (len(self), *self.manifest["size"])
        size = path.stat().st_size
        if size != math.prod(shape):
            raise RuntimeError(f"{PIXELS} has {size} bytes instead of {math.prod(shape)}")
        # A plain array: the class memmap makes every access slower.
        return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def open_cache(source: ImageSource, split: str, choice: CacheChoice = EVERY_CACHE) -> ImageCache:
    """Returns the cache of a split, after building it if it is missing.

    Waits while another process builds the same cache.
    """

    def origin() -> dict[str, Any]:
        return {
            "format": FORMAT,
            "split": split,
            "size": list(source.size),
            "label_names": list(source.label_names),
            "source": source.fingerprint(split),
        }

    return open_or_build(
        functools.partial(cache_path, choice.cache_dir, type(source).__name__, split),
        origin,
        lambda work: _write_images(work, source, split),
        functools.partial(ImageCache, anew=choice.anew),
        overwrite=choice.overwrite,
    )


def _write_images(work: Path, source: ImageSource, split: str) -> dict[str, Any]:
    is_encoded = source.size[0] is None
    labels: list[int] = []
    sizes: list[tuple[int, int]] = []
    digest, num_bytes = hashlib.sha256(), 0
    with (
        progress.Work(f"caching {source.title} {split}", None, "B") as caching,
        _open_images(work, is_encoded=is_encoded) as write,
    ):
        for content, label in source.examples(split):
            write(content)
            digest.update(content)
            labels.append(label)
            if is_encoded:
                sizes.append(size_of(content))
            num_bytes += len(content)
            if len(labels) % _IMAGES_PER_REPORT == 0:
                caching.move_to(num_bytes, f"{len(labels):,} images")
    if not labels:
        why = source.why_empty(split)
        raise DataError(f'split "{split}" of {source} holds no images: {why}')
    if is_encoded:
        np.save(work / SIZES, np.array(sizes, np.int32))
    array = np.array(labels, np.int32)
    np.save(work / LABELS, array)
    digest.update(array.tobytes())
    return {"images": len(labels), "sha256": digest.hexdigest()}


@contextlib.contextmanager
def _open_images(work: Path, *, is_encoded: bool) -> Iterator[Callable[[bytes], object]]:
    """Yields the function that writes an image."""
    if not is_encoded:
        with (work / PIXELS).open("wb") as file:
            yield file.write
        return
    # Images are compressed already; a group of one record is read without its neighbours.
    writer = ArrayRecordWriter(str(work / RECORDS), "group_size:1,uncompressed")
    try:
        yield writer.write
    finally:
        # Threads write; an error of the file system may be known at the end only.
        try:
            writer.close()
        except RuntimeError as error:
            raise OSError(str(error).split(";")[0]) from error
