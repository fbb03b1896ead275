"""Sources of labelled images: the base class, the check of their files, folders of images."""

from __future__ import annotations

import abc
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.files import absolute_path, file_states
from mtfrun.data.images.image_files import encode_image, in_threads, read_file
from mtfrun.data.sources.records import BadRecordError, skip_bad
from mtfrun.data.sources.source import MissingSource, SplitSource
from mtfrun.data.splits import SHARES, SPLITS, split_of
from mtfrun.display.streams import quiet_stderr

# Images that are decoded together, to be checked: enough to keep threads busy.
_TOGETHER = 128
_SUFFIXES = (".jpg", ".jpeg", ".png")
# Names of folders that hold the folders of the classes, in well-known datasets.
_NAMES_OF_SPLITS = ("train", "val", "validation", "test")
# Rows, columns and channels; None for rows and columns that differ from image to image.
ImageSize = tuple[int | None, int | None, int]


class ImageExample(NamedTuple):
    """A labelled image: its content, and the index of its class.

    If all images have one size: uint8 pixels, row by row, the channels of a pixel together.
    Otherwise a JPEG or PNG file, see `encode_image`.
    """

    content: bytes
    label: int


class ImageSource(SplitSource[ImageExample]):
    """Labelled images in splits."""

    @property
    @abc.abstractmethod
    def size(self) -> ImageSize:
        """Rows, columns and channels of every image; None for rows and columns that differ."""

    @property
    @abc.abstractmethod
    def label_names(self) -> tuple[str, ...]:
        """The name of every class."""


@dataclasses.dataclass(frozen=True)
class NoImages(MissingSource[ImageExample], ImageSource):
    """No images: a model classifies without any, and training refuses.

    Attributes:
      labels: the name of every class.
      channels: the channels of the images to classify; 1 for grey, 3 for colour.
      rows, cols: the size of all images; None if they differ.
    """

    missing = "images"
    remedy = "--gin_file=data/image_folders.gin, or set --gin.TRAINING_IMAGES"

    labels: Sequence[str]
    channels: int = 3
    rows: int | None = None
    cols: int | None = None

    @property
    def size(self) -> ImageSize:
        return self.rows, self.cols, self.channels

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.labels)


class ImageFile(NamedTuple):
    """An image file that has not been read; `place` is its path, for messages."""

    place: str
    label: int
    read: Callable[[], bytes]


def check_images(
    files: Iterable[ImageFile], channels: int
) -> Iterator[ImageExample | BadRecordError]:
    """Yields the images in their order, after decoding each to see that it is whole."""

    def check(file: ImageFile) -> ImageExample | BadRecordError:
        try:
            return ImageExample(encode_image(file.read(), channels, file.place).content, file.label)
        except DataError as error:
            return BadRecordError(str(error))

    remaining = iter(files)
    while chunk := list(itertools.islice(remaining, _TOGETHER)):
        with quiet_stderr():  # libjpeg prints warnings about damaged files
            examples = in_threads(check, chunk)
        yield from examples


@dataclasses.dataclass(frozen=True)
class ImageFolders(ImageSource):
    """JPEG and PNG files of any size; the names of folders are the classes.

    Attributes:
      directory: has a folder for each class, which holds images at any depth: a hash of an image's
        path below the directory decides its split, 80 % train, 10 % validation, 10 % test. Or a
        mapping from split to such a directory; the first has the classes.
      channels: 3 for colour, 1 for grey; other images are converted.
      skip_bad_records: the maximum number of images of a split that are left out, with a warning,
        since they cannot be read.
    """

    directory: str | Mapping[str, str]
    channels: int = 3
    skip_bad_records: int = dataclasses.field(default=0, kw_only=True)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.directory!r})"

    @property
    def size(self) -> ImageSize:
        return None, None, self.channels

    @functools.cached_property
    def label_names(self) -> tuple[str, ...]:
        first = self.directory
        if isinstance(first, Mapping):
            if not first:
                raise DataError("ImageFolders.directory is an empty mapping: name a split")
            first = next(iter(first.values()))
        names = tuple(path.name for path in _class_folders(absolute_path(first)))
        if len(names) == 1:
            rule = "it must have a folder for each class, named after it"
            raise DataError(f"the folder {first} has one class, {names[0]}: {rule}")
        return names

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.directory) if isinstance(self.directory, Mapping) else SPLITS

    def examples(self, split: str) -> Iterator[ImageExample]:
        self.check_split(split)
        numbers = {name: number for number, name in enumerate(self.label_names)}
        files = (
            ImageFile(str(path), numbers[name], functools.partial(read_file, str(path)))
            for name, path in self._paths(split)
        )
        images = check_images(files, self.channels)
        return skip_bad(images, self, split, self.skip_bad_records)

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        files = file_states(path for _, path in self._paths(split))
        settings = {"channels": self.channels, "skip_bad_records": self.skip_bad_records}
        return {"source": type(self).__name__, "settings": settings, "files": files}

    def why_empty(self, split: str) -> str:
        if isinstance(self.directory, Mapping) or next(self._paths(split), None) is not None:
            return "none of them can be read"
        count = sum(1 for other in SPLITS for _ in self._paths(other))
        return (
            f"a hash of each path puts {SHARES[split]:.0%} of the images there, and there are "
            f"{count}; add more, or give folders per split: "
            "{'train': 'photos/train', 'validation': 'photos/val'}"
        )

    def _paths(self, split: str) -> Iterator[tuple[str, Path]]:
        """Yields (class, path) of the images of a split, sorted."""
        is_mapping = isinstance(self.directory, Mapping)
        chosen = self.directory[split] if isinstance(self.directory, Mapping) else self.directory
        directory = absolute_path(chosen)
        for folder in _class_folders(directory):
            if folder.name not in self.label_names:
                owner = f"{directory}: the split {self.splits[0]}"
                raise DataError(lacks(owner, "class", folder.name, self.label_names))
            paths = _images(folder)
            if not paths:
                raise DataError(f"the folder {folder} has no JPEG or PNG file: add or delete it")
            for path in paths:
                if is_mapping or split_of(path.relative_to(directory).as_posix()) == split:
                    yield folder.name, path


def _class_folders(directory: Path) -> list[Path]:
    try:
        folders = sorted(
            path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise DataError(f"cannot read the folder {directory}: {error.strerror or error}") from error
    if not folders:
        rule = "it must have a folder for each class, named after it"
        raise DataError(f"the folder {directory} holds no images in folders: {rule}")
    if all(folder.name in _NAMES_OF_SPLITS for folder in folders):
        by_split = {folder.name: str(folder) for folder in folders}
        remedy = f"set ImageFolders.directory = {by_split}"
        raise DataError(f"the folders in {directory} are splits, not classes: {remedy}")
    return folders


def _images(folder: Path) -> list[Path]:
    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith("."))
        paths += [Path(parent, name) for name in names if name.lower().endswith(_SUFFIXES)]
    return paths
