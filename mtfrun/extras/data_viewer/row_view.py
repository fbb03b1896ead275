from __future__ import annotations

import codecs
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data import Batch, Batches, Data
from mtfrun.data.features import TARGETS
from mtfrun.data.rows.infeed import find_tokens
from mtfrun.data.vocabularies.vocabulary import Vocabulary

TRAIN = "train"
# Features that say something about the ids of another one: "targets_position".
_SEGMENTATION, _POSITION, _WEIGHTS = "_segmentation", "_position", "_weights"
PADDING = 0
# A decoder's result for bytes that are not a whole character of UTF-8.
_INVALID = "\ufffd"


class Token(NamedTuple):
    """An id and what it adds to the text; `segment` counts from 1, `position` in it from 0.

    `weight` is its weight in the loss; None in a feature without a loss.
    """

    id: int
    text: str
    segment: int
    position: int
    weight: float | None


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one feature of a row, or of a segment; `length` counts padding too."""

    name: str
    tokens: Sequence[Token]
    length: int

    @property
    def padding(self) -> int:
        """Positions without a token."""
        return self.length - len(self.tokens)

    @property
    def num_with_loss(self) -> int:
        return sum(bool(token.weight) for token in self.tokens)

    @property
    def has_partial_loss(self) -> bool:
        """Whether some tokens have another weight than others."""
        return len({token.weight for token in self.tokens}) > 1

    def parts(self) -> list[Tokens]:
        """Returns the segments."""
        groups = itertools.groupby(self.tokens, lambda token: token.segment)
        return [dataclasses.replace(self, tokens=list(group)) for _, group in groups]


@dataclasses.dataclass(frozen=True)
class RowView:
    """`images` are uint8 [rows, cols, channels] by name; other values are texts by name."""

    tokens: Sequence[Tokens]
    images: Mapping[str, np.ndarray]
    values: Mapping[str, str]


def row_views(
    batch: Mapping[str, np.ndarray],
    vocabularies: Mapping[str, Vocabulary],
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> list[RowView]:
    """Returns the rows of a batch; `vocabularies` of ids and `class_names` are by feature."""
    (size,) = {len(values) for values in batch.values()}
    vocabularies = {n: v for n, v in vocabularies.items() if n in batch}
    shown = {
        n + suffix for n in vocabularies for suffix in ("", _SEGMENTATION, _POSITION, _WEIGHTS)
    }
    class_names = class_names or {}
    images = {
        name
        for name, x in batch.items()
        if x.dtype == np.uint8 and x.ndim == 4 and name not in class_names
    }
    values = [name for name in batch if name not in shown | images]
    rows = [{name: x[i] for name, x in batch.items()} for i in range(size)]
    return [
        RowView(
            [_tokens(name, row, vocabulary) for name, vocabulary in vocabularies.items()],
            {name: x for name, x in row.items() if name in images},
            {name: _value_text(row[name], class_names.get(name)) for name in values},
        )
        for row in rows
    ]


def _tokens(name: str, row: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> Tokens:
    ids = row[name]
    is_token = find_tokens(row, name)
    segments = row.get(name + _SEGMENTATION, is_token.astype(np.int32))
    positions = row.get(name + _POSITION, np.arange(len(ids)))
    weights = row.get(name + _WEIGHTS, (ids != PADDING).astype(np.float32))
    columns = [x[is_token].tolist() for x in (ids, segments, positions, weights)]
    texts = token_texts(vocabulary, columns[0])
    tokens = [
        Token(number, text, segment, position, weight if name == TARGETS else None)
        for text, number, segment, position, weight in zip(texts, *columns, strict=True)
    ]
    return Tokens(name, tokens, len(ids))


def _value_text(values: np.ndarray, class_names: Sequence[str] | None) -> str:
    if values.ndim and class_names is not None:
        counts = np.bincount(values.ravel(), minlength=len(class_names)).tolist()
        return ", ".join(f"{x} {n:,}" for x, n in zip(class_names, counts, strict=True) if n)
    if values.ndim:
        numbers = " ".join(map(str, values.ravel()[:16].tolist()))
        return numbers + " ..." * (values.size > 16)
    number = int(values)
    if class_names is not None and 0 <= number < len(class_names):
        return f"{number} ({class_names[number]})"
    return str(number)


def rows_of(data: Data, split: str, count: int, seed: int) -> Iterator[RowView]:
    """Yields rows of training, or of all tasks' evaluations on another split.

    If there are several tasks, the first value of a row is its task's name.
    """
    if split == TRAIN:
        batches = data.train(count, seed=seed)
        tasks = tasks_at(batches, count)
        yield from rows_of_tasks(data, next(batches), tasks)
        return
    for task, part in data.by_task().items():
        for batch in itertools.islice(part.evaluation(count, split=split), 1):
            yield from rows_of_tasks(data, _without_empty_rows(batch), itertools.repeat(task))


def tasks_at(batches: Batches, count: int) -> list[str]:
    """Returns the names of the tasks of the next `count` rows."""
    names, tasks = list(batches.examples_per_row), [""] * count
    for component, places, _ in batches.rows_at(batches.position + np.arange(count)):
        for place in places.tolist():
            tasks[place] = names[component]
    return tasks


def rows_of_tasks(data: Data, batch: Batch, tasks: Iterable[str]) -> Iterator[RowView]:
    """Yields the rows of a batch; if there are several tasks, each with its own in `tasks`."""
    has_tasks = len(data.by_task()) > 1
    rows = row_views(batch, data.vocabularies, data.class_names)
    for task, row in zip(tasks, rows, strict=False):
        values = {"task": task, **row.values} if has_tasks else row.values
        yield dataclasses.replace(row, values=values)


def _without_empty_rows(batch: Batch) -> Mapping[str, np.ndarray]:
    """Removes the rows of zeros that pad a batch, unless there is no other row."""
    size = len(next(iter(batch.values())))
    occupied = np.zeros(size, bool)
    for values in batch.values():
        occupied |= values.reshape(size, -1).any(axis=1)
    return {name: values[occupied] for name, values in batch.items()} if occupied.any() else batch


def token_texts(vocabulary: Vocabulary, ids: Iterable[int]) -> list[str]:
    """Returns what each id adds to the decoded text; special ids by name.

    The text of a character of several ids is at the last of them; the ones before have "".

    >>> from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
    >>> token_texts(ByteVocabulary(), [113, 198, 172, 1, 258, 113])
    ['n', '', 'é', '<end>', '<extra_id_0>', 'n']
    """
    names = {int(s): f"<extra_id_{i}>" for i, s in enumerate(vocabulary.sentinels)}
    names |= {vocabulary.pad_id: "<pad>", vocabulary.end_id: "<end>"}
    names[vocabulary.unknown_id] = "<unknown>"
    token_bytes = vocabulary.token_bytes
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts: list[str] = []
    begun = 0  # the first id of a character that is not yet whole
    is_first = True  # of a text, before which some vocabularies put a space
    for number in map(int, ids):
        data = token_bytes[number] if 0 <= number < len(token_bytes) else b""
        is_text = len(data) > 0
        if is_first and is_text and not vocabulary.decode([number]).startswith(" "):
            data = data.removeprefix(b" ")
        text = decoder.decode(data)
        if text and not text.startswith(_INVALID):
            texts[begun:] = [""] * (len(texts) - begun)
        if not is_text:
            decoder.reset()
            text = f"<{number}>"
        is_part = bool(decoder.getstate()[0])
        has_name = not is_text or is_part or text == _INVALID
        texts.append(names.get(number, text or _INVALID) if has_name else text)
        begun = begun if is_part else len(texts)
        is_first = not is_text
    return texts
