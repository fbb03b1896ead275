"""Images as sequences of the values of their pixels, for models that predict them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import Cached
from mtfrun.data.data import VOCABULARIES, TextData
from mtfrun.data.errors import DataError
from mtfrun.data.features import TARGETS, ids_shape
from mtfrun.data.images.image_data import IMAGES, LABELS, ImageData
from mtfrun.data.prompts import (
    LanguageModelPrompts,
    PromptFormat,
    PromptLimits,
    PromptRow,
    ScoredRow,
)
from mtfrun.data.rows.batches import Batch, Batches, Rows, every_row
from mtfrun.data.rows.order import ONLY_HOST, Host, Selection
from mtfrun.data.vocabularies.vocabulary import NO_END, EncodedTexts, Vocabulary
from mtfrun.errors import did_you_mean


class PixelVocabulary(Vocabulary):
    """Bytes as the ids 0 to 255, without an end: images of 8 bits a value, see `PixelData`.

    Padding is -1. A text has a character for each byte, U+0000 to U+00FF.
    """

    size: int = 256
    pad_id: int = -1
    end_id: int = NO_END
    unknown_id: int = 0
    sentinels = np.zeros([0], np.int32)
    # Bits per byte are bits per value of a pixel.
    bytes_per_id = np.ones([256], np.int32)
    fingerprint: str = hashlib.sha256(b"PixelVocabulary").hexdigest()

    def __repr__(self) -> str:
        return "PixelVocabulary()"

    @property
    def token_bytes(self) -> Sequence[bytes]:
        return [bytes([value]) for value in range(self.size)]

    def encode(self, text: str | bytes) -> np.ndarray:
        content = text.encode("latin-1", "replace") if isinstance(text, str) else text
        return np.frombuffer(content, np.uint8).astype(np.int32)

    def encode_texts(self, texts: Sequence[bytes]) -> EncodedTexts:
        lengths = np.array([len(text) for text in texts], np.int64)
        return EncodedTexts(self.encode(b"".join(texts)), lengths)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        values = np.asarray(ids, np.int64).reshape(-1)
        values = values[values >= 0]
        return np.minimum(values, self.size - 1).astype(np.uint8).tobytes().decode("latin-1")


@dataclasses.dataclass(frozen=True)
class PixelData(TextData):
    """Rows that are images: their values row by row, the channels of a pixel together.

    The bits per byte of an evaluation are bits per value of an image, "bits per dimension".

    Attributes:
      images: images of one size, or of an `image_size`.
      with_labels: whether rows have a feature "labels" {}, for `vision.ClassConditional`.
    """

    remedy: ClassVar[Mapping[str, str]] = {
        "inputs": "choose Experiment.data of texts",
        "labels": "set PixelData.with_labels=True",
        "": "set PixelData.with_labels=False",
    }

    images: ImageData
    with_labels: bool = False

    @property
    def features(self) -> dict[str, mtf.Shape]:
        labels = {LABELS: mtf.Shape()} if self.with_labels else {}
        return {TARGETS: ids_shape(self.images.image.size), **labels}

    def model_arguments(self) -> dict[str, object]:
        classes = {"num_classes": len(self.images.label_names)} if self.with_labels else {}
        return {**super().model_arguments(), **classes}

    @property
    def class_names(self) -> dict[str, Sequence[str]]:
        return self.images.class_names if self.with_labels else {}

    def prompt(self, first_values: bytes, label: str = "") -> bytes:
        """Returns an image's prompt, of a class if rows have labels; DataError for no class."""
        if not self.with_labels:
            return first_values
        names = self.images.label_names
        if label not in names:
            classes = f"{', '.join(names[:10])}{', ...' * (len(names) > 10)}"
            hint = did_you_mean(label, names)
            raise DataError(f'"{label}" is none of the {len(names)} classes {classes}{hint}')
        return np.int32(names.index(label)).tobytes() + first_values

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        if self.with_labels:
            return _PromptsWithLabels(self.vocabulary, limits)
        return super().prompt_format(limits)

    @property
    def vocabulary(self) -> PixelVocabulary:
        return PixelVocabulary()

    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        batches = self.images.train(batch, seed=seed, host=host)
        batches.components = [_PixelRows(rows, self.with_labels) for rows in batches.components]
        return batches

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        return every_row(_PixelRows(self.images.rows(split), self.with_labels), batch)

    def caches(self, split: str, choice: CacheChoice = EVERY_CACHE) -> Iterator[Cached]:
        return self.images.caches(split, choice)

    def fingerprint(self) -> dict[str, object]:
        vocabularies = {name: x.fingerprint for name, x in self.vocabularies.items()}
        return {**self.images.fingerprint(), VOCABULARIES: vocabularies}

    def source_summary(self) -> dict[str, object]:
        return self.images.source_summary()

    def examples(self, split: str) -> Iterator[Mapping[str, bytes]]:
        for pixels, _ in self.images.images(split):
            yield {TARGETS: pixels.tobytes()}


@dataclasses.dataclass(frozen=True)
class _PixelRows(Rows):
    images: Rows
    with_labels: bool

    def __len__(self) -> int:
        return len(self.images)

    def take(self, selection: Selection) -> Batch:
        rows = self.images.take(selection)
        images = rows[IMAGES]
        labels = {LABELS: rows[LABELS]} if self.with_labels else {}
        return {TARGETS: images.reshape(len(images), -1).astype(np.int32), **labels}

    def padding_of(self, feature: str) -> int:
        return PixelVocabulary.pad_id if feature == TARGETS else 0


class _PromptsWithLabels(LanguageModelPrompts):
    """A prompt, and the ids of a row: a class, four bytes, and the first values of an image."""

    has_plain_rows: ClassVar[bool] = False

    def row(self, prompt: bytes) -> PromptRow:
        label, first_values = np.frombuffer(prompt[:4], np.int32), prompt[4:]
        row = super().row(first_values)
        return row._replace(ids=np.concatenate([label, row.ids]))

    def features(
        self, rows: Sequence[PromptRow], batch: int, lengths: Mapping[str, int]
    ) -> dict[str, np.ndarray]:
        labels = np.zeros([batch], np.int32)
        labels[: len(rows)] = [row.ids[0] for row in rows]
        values = [row._replace(ids=row.ids[1:]) for row in rows]
        return {**super().features(values, batch, lengths), LABELS: labels}

    def scored_row(self, inputs: bytes, target: bytes) -> ScoredRow:
        raise DataError("PixelData with labels scores no pairs: evaluations have bits per value")
