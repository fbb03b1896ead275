"""Source of TFDS datasets, embedded or prepared on this machine."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError, lacks
from mtfrun.data.sources.embedded_datasets import (
    NUMBER_WORDS,
    PYTHON_DOCS,
    PYTHON_SOURCE,
    EmbeddedDataset,
)
from mtfrun.data.sources.records import ALL, FieldNames, by_our_name, list_fields, text_of_value
from mtfrun.data.sources.source import Example, Source, in_parts
from mtfrun.data.sources.tfds_dataset import TfdsDataset
from mtfrun.data.splits import check_split

# Examples that pass from TensorFlow to Python together; they are in memory at once.
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Tfds(TfdsDataset, Source):
    """Texts, labels and numbers of a TFDS dataset.

    A split is the name of a split or TFDS's slice of one (`train[:10%]`). The label of a class
    becomes its name, or "-1" without a label (TFDS's -1); other numbers become decimals.

    Attributes:
      name: `python_docs`, `python_source` or `number_words`, which are prepared on first use; or
        any dataset that TFDS has prepared in `data_dir`, as `name[/config][:version]`.
      fields: our name of each field to the name of TFDS's feature: {"inputs": "sentence1",
        "targets": "label"}. A nested feature is "outer/inner"; a number at the end chooses one
        element of a list of texts, "answers/text/0", which is empty if the list is too short;
        "answers/text/*" selects all elements as "answers/text/0", "answers/text/1", .... By
        default all features that are not lists, by TFDS's names.
      slices: TFDS's split, or a slice of one, for each of our splits: {"train": "train[:90%]",
        "validation": "train[90%:]"}. By default the splits of the dataset.
      data_dir: TFDS's directory; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      download: whether a dataset that is not prepared is downloaded. Never by default.
    """

    embedded: ClassVar[Mapping[str, EmbeddedDataset]] = {
        dataset.name: dataset for dataset in (NUMBER_WORDS, PYTHON_DOCS, PYTHON_SOURCE)
    }

    name: str
    fields: FieldNames | None = None
    slices: Mapping[str, str] | None = None
    data_dir: str | None = None
    download: bool = False

    def __str__(self) -> str:
        return f"Tfds({self.name!r})"

    @property
    def splits(self) -> tuple[str, ...]:
        if self.slices is not None:
            return tuple(self.slices)
        return tuple(self.builder.info.splits)

    def examples(self, split: str) -> Iterator[Example]:
        features = self._features
        names = sorted({feature.name for feature in features.values()})
        dataset = self.read(self._tfds_split(split), names)
        for batch in self.iterate(dataset.ragged_batch(_BATCH)):
            columns = [feature.texts(batch) for feature in features.values()]
            for values in zip(*columns, strict=True):
                fields: dict[str, bytes] = {}
                for ours, texts in zip(features, values, strict=True):
                    fields |= (
                        {ours: texts} if isinstance(texts, bytes) else list_fields(ours, texts)
                    )
                yield from in_parts(fields)

    def fingerprint(self, split: str) -> object:
        fields = {name: str(feature) for name, feature in self._features.items()}
        return self.describe(self._tfds_split(split), fields=fields)

    def check_split(self, split: str) -> None:
        self._tfds_split(split)

    def _tfds_split(self, split: str) -> str:
        if self.slices is not None:
            check_split(str(self), split, self.splits)
            split = self.slices[split]
        self.check_tfds_split(split)
        return split

    @functools.cached_property
    def _features(self) -> dict[str, _TextFeature]:
        described = self.builder.info.features
        features = _text_features(described, described.get_tensor_info())
        if self.fields is None:
            return {name: feature for name, feature in features.items() if not feature.is_list}
        return {
            ours: self._feature(name, features) for ours, name in by_our_name(self.fields).items()
        }

    def _feature(self, name: str, features: Mapping[str, _TextFeature]) -> _TextFeature:
        if name in features and not features[name].is_list:
            return features[name]
        outer, _, last = name.rpartition("/")
        if outer in features and features[outer].is_list and (last == ALL or last.isdecimal()):
            return dataclasses.replace(features[outer], element=None if last == ALL else int(last))
        names = sorted(
            f"{name}/0" if feature.is_list else name for name, feature in features.items()
        )
        raise DataError(lacks(f'TFDS dataset "{self.name}"', "text feature", name, names))


@dataclasses.dataclass(frozen=True)
class _TextFeature:
    """A feature of TFDS that can become text; `element` of a list, None for all."""

    name: str
    label_names: Sequence[str] = ()
    is_list: bool = False
    element: int | None = 0

    def __str__(self) -> str:
        element = ALL if self.element is None else self.element
        return f"{self.name}/{element}" if self.is_list else self.name

    def texts(self, batch: Any) -> Sequence[bytes | list[bytes]]:
        """Returns the text, or the list of texts, for each example of a batch."""
        values = functools.reduce(operator.getitem, self.name.split("/"), batch)
        if self.is_list:
            # A list of a fixed length is an array.
            lists: list[list[bytes]]
            lists = values.tolist() if isinstance(values, np.ndarray) else values.to_list()
            n = self.element
            return lists if n is None else [x[n] if n < len(x) else b"" for x in lists]
        if names := self.label_names:
            return [(names[i] if 0 <= i < len(names) else str(i)).encode() for i in values.tolist()]
        if np.issubdtype(values.dtype, np.floating):
            # A float32 has fewer decimals than the float64 of `tolist`.
            return [str(value).encode() for value in values]
        return [text_of_value(value) or b"" for value in values.tolist()]


def _text_features(feature: Any, info: Any, name: str = "") -> dict[str, _TextFeature]:
    """Returns the features that can become text by their names, nested ones as "outer/inner".

    `info` has their shapes and types; there a list of dictionaries is a dictionary of lists.
    """
    if isinstance(feature, tfds.features.Dataset):  # examples within examples
        return {}
    if isinstance(info, Mapping):
        texts = {}
        for key, inner in info.items():
            texts.update(_text_features(feature[key], inner, f"{name}/{key}" if name else key))
        return texts
    if len(info.shape) == 1 and info.dtype == tf.string:
        return {name: _TextFeature(name, is_list=True)}
    if info.shape != ():
        return {}
    is_label = isinstance(feature, tfds.features.ClassLabel)
    return {name: _TextFeature(name, tuple(feature.names or ()) if is_label else ())}
