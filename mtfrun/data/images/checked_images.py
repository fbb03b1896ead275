"""Image files of a source, checked; damaged ones may be left out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from absl import logging

from mtfrun.data.errors import DataError
from mtfrun.data.images.image_files import encoded_image
from mtfrun.data.images.image_source import ImageExample
from mtfrun.data.images.parallel import in_threads
from mtfrun.display.quiet import quiet_stderr

# Images that are decoded together, to be checked: enough to keep threads busy.
_TOGETHER = 128


class ImageFile(NamedTuple):
    """An image file that has not been read.

    Attributes:
      place: its path, for messages.
      label: the number of its class.
      read: returns its content.
    """

    place: str
    label: int
    read: Callable[[], bytes]


def checked_images(
    files: Iterable[ImageFile], channels: int, skip_bad_records: int
) -> Iterator[ImageExample]:
    """Yields the images in their order, after decoding each to see that it is whole.

    Args:
      files: JPEG and PNG files.
      channels: 1 for grey, 3 for colour.
      skip_bad_records: so many images that cannot be read are left out, with a warning that counts
        them.

    Raises:
      DataError: more cannot be read; the message names one.
    """

    def checked(file: ImageFile) -> ImageExample | DataError:
        try:
            return ImageExample(
                encoded_image(file.read(), channels, file.place).content, file.label
            )
        except DataError as error:
            return error

    damage: list[DataError] = []
    remaining = iter(files)
    while chunk := list(itertools.islice(remaining, _TOGETHER)):
        with quiet_stderr():  # libjpeg prints warnings about damaged files
            examples = in_threads(checked, chunk)
        for example in examples:
            if not isinstance(example, DataError):
                yield example
                continue
            damage.append(example)
            if len(damage) > skip_bad_records:
                skipped = f"{skip_bad_records} others were left out already; " * bool(
                    skip_bad_records
                )
                raise DataError(
                    f"{example}; {skipped}delete or replace it, or leave out bad images with "
                    f"skip_bad_records={len(damage)} or more"
                )
    if damage:
        logging.warning(
            "left out %d image(s) that cannot be read; first: %s", len(damage), damage[0]
        )
