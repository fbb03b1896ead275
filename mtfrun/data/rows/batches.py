"""Rows and their batches: endless with a position for training, counted for evaluation."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.rows.order import ONLY_HOST, Host, Mixing, Selection, Shuffle
from mtfrun.errors.checks import COUNT, check_range

Batch = Mapping[str, np.ndarray]
"""Features [batch, ...] by name, int32 or uint8."""


class Places(NamedTuple):
    """The places of examples in rows, all int64 [places]; an example may have several.

    `examples` are indices into the requested ones. `segments` count from 1; 0 is a whole row.
    """

    examples: np.ndarray
    rows: np.ndarray
    segments: np.ndarray


class Rows(abc.ABC):
    """A finite number of rows of features; an epoch has each row once."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, selection: Selection) -> Batch:
        """Returns the features of the selected rows, in their order; pure, and thread-safe."""

    def padding_of(self, feature: str) -> int:
        """Returns the value of a feature in rows that fill up a batch."""
        return 0

    def find(self, examples: np.ndarray) -> Places:
        """Returns the places of examples of the source; DataError for rows that do not know."""
        raise DataError(f"{type(self).__name__} do not say which examples they hold")

    def divide(self, numbers: np.ndarray, batch: int) -> list[np.ndarray]:
        """Returns the numbers of the rows of every batch of an evaluation, by default in order."""
        return [numbers[first : first + batch] for first in range(0, len(numbers), batch)]


class Batches(Iterator[Batch]):
    """Endless batches of shuffled rows of mixed components.

    A batch is a pure function of seed, position and host. Setting `position`, the number of
    examples consumed by all hosts, resumes a run, also with another batch size or other hosts.
    Every component is shuffled anew in each epoch. `components` may be replaced by others of the
    same lengths.

    Args:
      batch: rows over all hosts.
      rates: how often rows of each component are drawn, relative to each other.
      max_epochs: epochs after which a component is no longer drawn; None for one or more.

    Attributes:
      examples_per_row: means by component name, for `examples_before`; by default 1 of "".
      shuffles: the order of each component's rows.
      mixing: the component at every position.
    """

    def __init__(
        self,
        components: Sequence[Rows],
        batch: int,
        *,
        seed: int,
        rates: Sequence[float] | None = None,
        max_epochs: Sequence[int | None] | None = None,
        examples_per_row: Mapping[str, float] | None = None,
        host: Host = ONLY_HOST,
    ):
        check_range("batch", batch, COUNT)
        sizes = [len(rows) for rows in components]
        if min(sizes) < 1:
            raise DataError("there are no rows to train on: choose another source or split")
        self.position = 0
        self.batch = batch
        self.components = components
        self._seed = seed
        self.shuffles = [Shuffle(size, seed + number) for number, size in enumerate(sizes)]
        epochs = max_epochs or [None] * len(sizes)
        limits = [None if n is None else n * size for n, size in zip(epochs, sizes, strict=True)]
        self.mixing = Mixing(rates or [1.0] * len(sizes), limits)
        self.examples_per_row = examples_per_row or {"": 1.0}
        self._local = host.rows_of(batch)

    def __next__(self) -> Batch:
        share = len(self._local)
        batch: dict[str, np.ndarray] = {}
        for component, places, selection in self.rows_at(self.position + self._local):
            for name, values in self.components[component].take(selection).items():
                if name not in batch:
                    batch[name] = np.zeros([share, *values.shape[1:]], values.dtype)
                batch[name][places] = values
        self.position += self.batch
        return batch

    def rows_at(self, positions: np.ndarray) -> Iterator[tuple[int, np.ndarray, Selection]]:
        """Yields each component, the indices of its positions, int64 [rows], and its rows there."""
        components, drawn = self.mixing.at(positions)
        for component, shuffle in enumerate(self.shuffles):
            (places,) = np.nonzero(components == component)
            if places.size:
                numbers = drawn[places]
                rows, epochs = shuffle.at(numbers), numbers // shuffle.size
                yield component, places, Selection(rows, epochs, self._seed)

    def examples_before(self, position: int) -> dict[str, float]:
        rows = self.mixing.count_before(position)
        named = zip(self.examples_per_row.items(), rows, strict=True)
        return {name: count * per_row for (name, per_row), count in named}


class CountedBatches(Iterator[Batch]):
    """A number of batches; `operator.length_hint` is the number left."""

    def __init__(self, batches: Iterable[Batch], count: int):
        self._batches = iter(batches)
        self._left = count

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._left -= 1
        return batch

    def __length_hint__(self) -> int:
        return self._left


def every_row(rows: Rows, batch: int, max_rows: int | None = None) -> CountedBatches:
    """Returns all rows, or the `max_rows` of `choose_rows`, once; padding fills up a batch."""
    parts = rows.divide(choose_rows(len(rows), max_rows), batch)
    selections = (Selection(numbers, np.zeros_like(numbers)) for numbers in parts)
    return CountedBatches((fill_up(rows.take(x), batch, rows) for x in selections), len(parts))


def choose_rows(count: int, limit: int | None) -> np.ndarray:
    """Returns `limit` integers below `count`, ascending, always the same random choice."""
    if limit is None or limit >= count:
        return np.arange(count)
    generator = np.random.Generator(np.random.Philox(0))
    return np.sort(generator.choice(count, limit, replace=False))


def fill_up(features: Batch, batch: int, rows: Rows) -> Batch:
    """Returns features [batch, ...] of features [rows, ...], with rows of padding at the end."""
    whole = dict(features)
    for name, values in features.items():
        if len(values) < batch:
            shape = [batch - len(values), *values.shape[1:]]
            padding = np.full(shape, rows.padding_of(name), values.dtype)
            whole[name] = np.concatenate([values, padding])
    return whole


class Texts(NamedTuple):
    """Beginnings of texts in a sequence of tokens: `sizes` ids, at least 1, from `starts`.

    If the whole text ends later, at `stops`, the last id is replaced by its end id. All int64
    [texts].
    """

    starts: np.ndarray
    sizes: np.ndarray
    stops: np.ndarray


def collate(
    name: str,
    tokens: np.ndarray,
    texts: Texts,
    counts: np.ndarray,
    length: int,
    texts_per_segment: int = 1,
    padding_id: int = 0,
) -> dict[str, np.ndarray]:
    """Returns rows of texts from a sequence of tokens, as `packed_features`; int32 [rows, length].

    `counts` [rows] is the number of texts in each row, which have at most `length` ids together.
    `texts_per_segment` is 2 for segments that are pairs; it divides all `counts`.

    Examples:
      >>> texts = Texts(np.array([0, 2, 5]), np.array([2, 3, 2]), np.array([2, 5, 9]))
      >>> tokens = np.array([8, 1, 6, 7, 1, 4, 5, 3, 1])
      >>> rows = collate("targets", tokens, texts, np.array([2, 1]), 6)
      >>> rows["targets"].tolist(), rows["targets_segmentation"].tolist()
      ([[8, 1, 6, 7, 1, 0], [4, 1, 0, 0, 0, 0]], [[1, 1, 2, 2, 2, 0], [1, 1, 0, 0, 0, 0]])
    """
    rows = counts.size
    # Every row becomes a sequence of runs: its texts, and padding. So whatever is constant in a run
    # is repeated, which is much faster than to scatter it.
    paddings = np.cumsum(counts) + np.arange(rows)
    is_text = np.ones(texts.sizes.size + rows, bool)
    is_text[paddings] = False
    sizes = np.empty(is_text.size, np.int64)
    sizes[is_text] = texts.sizes
    sums = np.concatenate([[0], np.cumsum(texts.sizes)])
    stops = np.cumsum(counts)
    sizes[paddings] = length - (sums[stops] - sums[stops - counts])
    first = np.cumsum(sizes) - sizes  # index of each run in the flat rows

    segment = np.zeros(is_text.size, np.int32)
    segment[is_text] = indices_within(counts) // texts_per_segment + 1
    origin = first.astype(np.int32)  # where the run's segment begins
    if texts_per_segment > 1:
        origin[is_text] = np.repeat(origin[is_text][::texts_per_segment], texts_per_segment)
    shift = -first
    shift[is_text] += texts.starts

    flat = np.arange(rows * length)
    ids = np.take(tokens, flat + np.repeat(shift, sizes), mode="clip").astype(np.int32)
    (trimmed,) = np.nonzero(texts.starts + texts.sizes != texts.stops)
    if trimmed.size:
        last = first[is_text][trimmed] + texts.sizes[trimmed] - 1
        ids[last] = tokens[texts.stops[trimmed] - 1]
    segmentation = np.repeat(segment, sizes)
    position = flat.astype(np.int32) - np.repeat(origin, sizes)
    if sizes[paddings].any():
        present = segmentation != 0
        ids *= present
        if padding_id:
            ids[~present] = padding_id
        position *= present
    values = {name: ids, f"{name}_segmentation": segmentation, f"{name}_position": position}
    return {feature: flat_rows.reshape(rows, length) for feature, flat_rows in values.items()}


def spread(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns first, first + 1, ... of every count, and the indices of the counts."""
    numbers = np.repeat(np.arange(counts.size), counts)
    return first[numbers] + indices_within(counts), numbers


def indices_within(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., count - 1 for every count: 0, 1, 0, 1, 2 for counts 2, 0, 3."""
    first = np.cumsum(counts) - counts
    indices: np.ndarray = np.arange(counts.sum()) - np.repeat(first, counts)
    return indices
