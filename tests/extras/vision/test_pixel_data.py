"""Rows of pixels: the values of images, and rows without a loss where a batch has too few."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from mtfrun.data import DataError, ImageData, ImageExample, ImageSource, PromptLimits
from mtfrun.extras.vision import PixelData, PixelVocabulary

NUM_IMAGES = 5


class Colours(ImageSource):
    """Images of two rows, one column and three channels."""

    size = (2, 1, 3)
    label_names = ("dark", "any")
    splits = ("train", "validation")

    def examples(self, split: str) -> Iterator[ImageExample]:
        """Yields images whose values are their number, 0, 250, 251, 252, 255."""
        self.check_split(split)
        for number in range(NUM_IMAGES):
            yield ImageExample(bytes([number, 0, 250, 251, 252, 255]), number % 2)

    def fingerprint(self, split: str) -> object:
        """Returns the split."""
        return split


DATA = PixelData(ImageData(Colours()))


def test_rows_are_images_value_by_value() -> None:
    batches = list(DATA.evaluation(3, split="validation"))
    ids = np.concatenate([batch["targets"] for batch in batches])
    assert ids.dtype == np.int32
    assert ids[:NUM_IMAGES].tolist() == [[i, 0, 250, 251, 252, 255] for i in range(NUM_IMAGES)]
    # No value is padding: a row that fills up the last batch has no loss.
    assert ids[NUM_IMAGES:].tolist() == [[-1] * 6]
    assert {name: shape.to_integer_list for name, shape in DATA.features.items()} == {
        "targets": [6]
    }


def test_rows_may_have_the_labels_of_their_images() -> None:
    data = dataclasses.replace(DATA, with_labels=True)
    assert data.model_arguments() == {"vocabulary_size": 256, "num_classes": 2}
    assert data.features["labels"].to_integer_list == []
    batch = next(data.train(NUM_IMAGES, seed=3))
    assert batch["labels"].tolist() == (batch["targets"][:, 0] % 2).tolist()
    *_, last = data.evaluation(3, split="validation")
    assert last["labels"].tolist() == [1, 0, 0]
    assert last["targets"][-1].tolist() == [-1] * 6


def test_a_prompt_is_a_class_and_the_first_values() -> None:
    data = dataclasses.replace(DATA, with_labels=True)
    form = data.prompt_format(PromptLimits(max_length=6, decode_length=4))
    rows = [form.row(data.prompt(bytes([7, 255]), "any")), form.row(data.prompt(b"", "dark"))]
    assert [(row.prefix, row.limit) for row in rows] == [(2, 6), (0, 4)]
    features = form.features(rows, 3, form.lengths(rows[0]))
    assert features["labels"].tolist() == [1, 0, 0]
    assert features["targets"].tolist() == [[7, 255, *[-1] * 4], [-1] * 6, [-1] * 6]
    with pytest.raises(DataError, match='"drak" is none of the 2 classes dark, any, did you mean'):
        data.prompt(b"", "drak")
    with pytest.raises(DataError, match="scores no pairs"):
        form.scored_row(b"", b"")
    assert DATA.prompt(b"ab", "any") == b"ab"


def test_bits_per_byte_are_bits_per_value() -> None:
    assert DATA.bytes_per_id.tolist() == [1] * 256
    vocabulary = PixelVocabulary()
    content = bytes(range(256))
    assert vocabulary.encode(content).tolist() == list(range(256))
    assert vocabulary.decode(vocabulary.encode(content)).encode("latin-1") == content
