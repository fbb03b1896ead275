"""`mtfrun decode` of a classifier of images: which images, and what is written of each."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import numpy as np

from mtfrun.cli.errors import UsageError
from mtfrun.cli.inputs.image_paths import image_paths
from mtfrun.cli.terminal.decoding_progress import decoding_progress
from mtfrun.data import ImageData, read_image, reading
from mtfrun.experiment import Classification
from mtfrun.experiment.classification import Prediction

_SPLIT = "split:"
# Flags of decode that mean something for texts only.
_TEXT_FLAGS = (
    *("prompt", "interactive", "beam_size", "num_outputs", "alpha", "temperature", "top_p"),
    *("decode_length", "seed"),
)


def check_image_flags(flags: argparse.Namespace) -> None:
    """Raises UsageError for flags of `decode` that have no meaning for images."""
    given = [name for name in _TEXT_FLAGS if getattr(flags, name) not in (None, False, [])]
    if given:
        raise UsageError(
            f"the model is a classifier of images, --{given[0]} is for models of text: "
            f"give images with --input=FILE, a folder, a pattern or {_SPLIT}NAME of the data"
        )


def classify(argument: str, classification: Classification) -> list[dict[str, object]]:
    """Returns the fields of a line for every image that `--input` means, in order.

    "file" or "split", "index" and "true_label" say which image; "label", "probability" and "top"
    (the most probable labels) what the model says. Nothing is returned unless all images were read.

    Args:
      argument: the value of --input: "split:" and a split of the experiment's data, or see
        `image_paths`.
      classification: makes the predictions.

    Raises:
      UsageError, DataError: the split or an image is missing, or an image is broken.
    """
    data = classification.experiment.images
    if argument.startswith(_SPLIT):
        return _of_split(argument.removeprefix(_SPLIT), data, classification)
    paths = image_paths(argument)
    size = data.source.size
    predictions = classification(
        (read_image(path, size) for path in paths), decoding_progress(len(paths))
    )
    # Names that are no UTF-8 cannot be written as JSON.
    names = [os.fsencode(path).decode("utf-8", "replace") for path in paths]
    return [
        {"file": name, **_fields(prediction)}
        for name, prediction in zip(names, predictions, strict=True)
    ]


def _of_split(
    split: str, data: ImageData, classification: Classification
) -> list[dict[str, object]]:
    examples = data.source.examples(split)
    with reading(data.source):
        total = int(examples.reduce(np.int64(0), lambda count, *_: count + 1))
    labels: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for image, label in examples.as_numpy_iterator():
            labels.append(int(label))
            yield image

    predictions = classification(images(), decoding_progress(total))
    return [
        {
            "split": split,
            "index": index,
            "true_label": data.label_names[label],
            **_fields(prediction),
        }
        for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True))
    ]


def _fields(prediction: Prediction) -> dict[str, object]:
    return {**prediction._asdict(), "top": [entry._asdict() for entry in prediction.top]}
