from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.data.features import TARGETS, occupied
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.tools.data_viewer.token_texts import token_texts

# Features that say something about the ids of another one: "targets_position".
_SEGMENTATION, _POSITION, _WEIGHTS = "_segmentation", "_position", "_weights"
_PADDING = 0


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The ids of one feature of a row, without padding; arrays are [tokens].

    `columns` are places in the row, for `texts` see `token_texts`, `segments` count from 1,
    `positions` in the text from 0; `weights` of the loss are None for a feature without one;
    `length` includes padding.
    """

    name: str
    columns: np.ndarray
    ids: np.ndarray
    texts: Sequence[str]
    segments: np.ndarray
    positions: np.ndarray
    weights: np.ndarray | None
    length: int

    @property
    def padding(self) -> int:
        """Positions without a token."""
        return self.length - len(self.ids)

    def parts(self) -> list[Tokens]:
        numbers = np.unique(self.segments)
        return [self._where(self.segments == number) for number in numbers]

    def text(self) -> str:
        """Returns the decoded text; special ids except padding are shown by name."""
        return "".join(
            text for text, number in zip(self.texts, self.ids, strict=True) if number != _PADDING
        )

    def _where(self, chosen: np.ndarray) -> Tokens:
        weights = None if self.weights is None else self.weights[chosen]
        return dataclasses.replace(
            self,
            columns=self.columns[chosen],
            ids=self.ids[chosen],
            texts=[text for text, here in zip(self.texts, chosen, strict=True) if here],
            segments=self.segments[chosen],
            positions=self.positions[chosen],
            weights=weights,
        )


@dataclasses.dataclass(frozen=True)
class ImageView:
    """Pixels are uint8 [rows, cols, channels]."""

    name: str
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Value:
    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class RowView:
    tokens: Sequence[Tokens] = ()
    images: Sequence[ImageView] = ()
    values: Sequence[Value] = ()

    def of_task(self, name: str) -> RowView:
        """Adds the name of the task as the first value."""
        return dataclasses.replace(self, values=[Value("task", name), *self.values])


@dataclasses.dataclass(frozen=True)
class Meanings:
    """Vocabularies of features that are ids, and the class names of features that are classes."""

    vocabularies: Mapping[str, Vocabulary]
    class_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def row_views(batch: Mapping[str, np.ndarray], meanings: Meanings) -> list[RowView]:
    (size,) = {len(values) for values in batch.values()}
    return [
        _row_view({name: values[i] for name, values in batch.items()}, meanings)
        for i in range(size)
    ]


def _row_view(row: Mapping[str, np.ndarray], meanings: Meanings) -> RowView:
    vocabularies = {n: v for n, v in meanings.vocabularies.items() if n in row}
    shown = {n + suffix for n in vocabularies for suffix in ("", _SEGMENTATION, _POSITION)}
    others = [name for name in row if name not in shown]
    images = [name for name in others if row[name].dtype == np.uint8 and row[name].ndim == 3]
    return RowView(
        [_tokens(name, row, vocabulary) for name, vocabulary in vocabularies.items()],
        [ImageView(name, row[name]) for name in images],
        [
            _value(name, row[name], meanings.class_names.get(name))
            for name in others
            if name not in images
        ],
    )


def _tokens(name: str, row: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> Tokens:
    ids = row[name]
    is_token = occupied(row, name)
    segments = row.get(name + _SEGMENTATION, is_token.astype(np.int32))
    positions = row.get(name + _POSITION, np.arange(len(ids)))
    weights = None
    if name == TARGETS:
        weights = row.get(name + _WEIGHTS, (ids != _PADDING).astype(np.float32))
    (columns,) = np.nonzero(is_token)
    return Tokens(
        name,
        columns,
        ids[columns],
        token_texts(vocabulary, ids[columns]),
        segments[columns],
        positions[columns],
        None if weights is None else weights[columns],
        len(ids),
    )


def _value(name: str, values: np.ndarray, class_names: Sequence[str] | None) -> Value:
    if values.ndim:
        numbers = " ".join(map(str, values.ravel()[:16].tolist()))
        return Value(name, numbers + " ..." * (values.size > 16))
    number = int(values)
    if class_names is not None and 0 <= number < len(class_names):
        return Value(name, f"{number} ({class_names[number]})")
    return Value(name, str(number))
