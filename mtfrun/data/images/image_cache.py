"""Caches of images: pixels that are mapped into memory, or image files in one file of records.

A cache is a directory with the images of one split of a source:

  images.bin           uint8 [images, rows, cols, channels], if all images have one size
  images.array_record  else: JPEG and PNG files, each a record that is read by its number
  sizes.npy            of these; int32 [images, 2] rows and columns
  labels.npy           int32 [images] indices of the classes
  manifest.json        counts, hashes, and the sources of the cache, see cache_directory.py
"""

from __future__ import annotations

import abc
import functools
import hashlib
import math
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from mtfrun.data.cache.directory import (
    EVERY_CACHE,
    CacheChoice,
    cache_path,
    open_or_build,
    read_manifest,
    reading,
    writing,
)
from mtfrun.data.errors import DataError
from mtfrun.data.images.image_files import EncodedImage, PixelImage, StoredImage, size_of
from mtfrun.data.images.image_source import ImageExample, ImageSource
from mtfrun.display import progress

# Version of the format and of the code that makes it; another one is another cache.
FORMAT = 2
# Errors of array_record and numpy for files with unexpected content.
_DAMAGE_ERRORS = (EOFError, RuntimeError, SyntaxError, tokenize.TokenError)
# Images between two reports of progress.
_IMAGES_PER_REPORT = 64
PIXELS, RECORDS, SIZES, LABELS = "images.bin", "images.array_record", "sizes.npy", "labels.npy"


class ImageCache(abc.ABC):
    """The images of one split of a source, with random access; labels int32 [images].

    Raises DamagedCacheError if the files or `origin` differ from those written. All images are read
    if `anew`, or if they may have changed. `files` are the names of the files with the images.
    """

    files: ClassVar[Sequence[str]]

    def __init__(
        self, directory: Path, origin: Mapping[str, Any] | None = None, *, anew: bool = False
    ):
        self.directory = directory
        names = (*self.files, LABELS)
        self.manifest = read_manifest(directory, names, origin=origin, anew=anew)
        with reading(directory, *_DAMAGE_ERRORS):
            self.labels: np.ndarray = np.load(directory / LABELS, mmap_mode="r")
            if self.labels.shape != (self.manifest["images"],):
                raise RuntimeError(f"{LABELS} has {len(self.labels)} labels")
            if not 0 <= self.labels.min() <= self.labels.max() < len(self.manifest["label_names"]):
                raise RuntimeError(f"{LABELS} has a label that is not a class")
            self._map_images()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["sha256"])

    @abc.abstractmethod
    def _map_images(self) -> None:
        """Opens the files with the images; raises RuntimeError if they do not fit the labels."""

    @abc.abstractmethod
    def images(self, numbers: np.ndarray) -> Sequence[StoredImage]:
        """Returns the images with these numbers, int64 [images], in their order."""

    @classmethod
    @abc.abstractmethod
    def write(cls, work: Path, directory: Path, examples: Iterator[ImageExample]) -> None:
        """Writes the images of a cache that is built in `work` and will stand in `directory`."""


class PixelCache(ImageCache):
    """Images of one size, mapped into memory: `pixels` are uint8 [images, rows, cols, channels]."""

    files: ClassVar[Sequence[str]] = (PIXELS,)

    def _map_images(self) -> None:
        path = self.directory / PIXELS
        shape = (len(self), *self.manifest["size"])
        size = path.stat().st_size
        if size != math.prod(shape):
            raise RuntimeError(f"{PIXELS} has {size} bytes instead of {math.prod(shape)}")
        # A plain array: the class memmap makes every access slower.
        self.pixels = np.asarray(np.memmap(path, np.uint8, "r", shape=shape))

    def images(self, numbers: np.ndarray) -> Sequence[StoredImage]:
        return [PixelImage(pixels) for pixels in self.pixels[numbers]]

    @classmethod
    def write(cls, work: Path, directory: Path, examples: Iterator[ImageExample]) -> None:
        with writing(directory):
            file = (work / PIXELS).open("wb")
        with file:
            for example in examples:
                with writing(directory):
                    file.write(example.content)
            with writing(directory):
                file.flush()


class EncodedCache(ImageCache):
    """Images of different sizes, as JPEG and PNG files in one file of records."""

    files: ClassVar[Sequence[str]] = (RECORDS, SIZES)

    def _map_images(self) -> None:
        self._sizes: np.ndarray = np.load(self.directory / SIZES, mmap_mode="r")
        # No reading ahead: records are read at random.
        self._reader = ArrayRecordReader(str(self.directory / RECORDS), "readahead_buffer_size:0")
        if self._reader.num_records() != len(self):
            raise RuntimeError(f"{RECORDS} has {self._reader.num_records()} images")

    def images(self, numbers: np.ndarray) -> Sequence[StoredImage]:
        with reading(self.directory, *_DAMAGE_ERRORS):
            contents = self._reader.read(numbers.tolist())
        channels = self.manifest["size"][-1]
        return [
            EncodedImage(content, (rows, cols), channels)
            for content, (rows, cols) in zip(contents, self._sizes[numbers].tolist(), strict=True)
        ]

    @classmethod
    def write(cls, work: Path, directory: Path, examples: Iterator[ImageExample]) -> None:
        # Images are compressed already; a group of one record is read without its neighbours.
        writer = ArrayRecordWriter(str(work / RECORDS), "group_size:1,uncompressed")
        sizes: list[tuple[int, int]] = []
        try:
            for example in examples:
                sizes.append(size_of(example.content))
                writer.write(example.content)
        finally:
            # Threads write; an error of the file system may be known at the end only.
            with writing(directory):
                try:
                    writer.close()
                except RuntimeError as error:
                    raise OSError(str(error).split(";")[0]) from error
        with writing(directory):
            np.save(work / SIZES, np.array(sizes, np.int32).reshape(-1, 2))


Cache = TypeVar("Cache", bound=ImageCache)


def open_cache(
    kind: type[Cache], source: ImageSource, split: str, choice: CacheChoice = EVERY_CACHE
) -> Cache:
    """Returns the cache of a split, after building it if it is missing.

    Waits while another process builds the same cache. `kind` is PixelCache for images of one size,
    EncodedCache for different sizes.
    """

    def origin() -> dict[str, Any]:
        return {
            "format": FORMAT,
            "split": split,
            "size": list(source.size),
            "label_names": list(source.label_names),
            "source": source.fingerprint(split),
        }

    def build(work: Path, directory: Path) -> dict[str, Any]:
        labels: list[int] = []
        digest = hashlib.sha256()

        def note_labels(caching: progress.Work) -> Iterator[ImageExample]:
            num_bytes = 0
            for example in source.examples(split):
                labels.append(example.label)
                digest.update(example.content)
                num_bytes += len(example.content)
                if len(labels) % _IMAGES_PER_REPORT == 0:
                    caching.move_to(num_bytes, f"{len(labels):,} images")
                yield example

        with progress.Work(f"caching {source.title} {split}", None, "B") as caching:
            kind.write(work, directory, note_labels(caching))
        if not labels:
            why = source.why_empty(split)
            raise DataError(f'split "{split}" of {source} holds no images: {why}')
        array = np.array(labels, np.int32)
        digest.update(array.tobytes())
        with writing(directory):
            np.save(work / LABELS, array)
        return {"images": len(labels), "sha256": digest.hexdigest()}

    place = functools.partial(cache_path, choice.cache_dir, type(source).__name__, split)
    open_in = functools.partial(kind, anew=choice.anew)
    return open_or_build(place, origin, build, open_in, overwrite=choice.overwrite)
