"""Rows, and batches of them: endless ones with a position, and counted ones for evaluation."""

from __future__ import annotations

import abc
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data.errors import DataError
from mtfrun.data.rows.order import ONLY_HOST, Host, Order, Selection
from mtfrun.errors.checks import COUNT, check_range

Batch = Mapping[str, np.ndarray]
"""Features [batch, ...] by name, int32 or uint8."""


class Density(NamedTuple):
    """How full rows are: their tokens and positions, and the tokens of texts that are cut off."""

    tokens: int
    capacity: int
    cut_tokens: int

    @property
    def fraction(self) -> float:
        return self.tokens / self.capacity


class Places(NamedTuple):
    """Where examples stand in rows; all int64 [places], and an example may stand in several.

    `examples` are indices into those asked for. `segments` count from 1; 0 is a whole row.
    """

    examples: np.ndarray
    rows: np.ndarray
    segments: np.ndarray


class Rows(abc.ABC):
    """A finite number of rows of features; an epoch has each row once."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of rows."""

    @abc.abstractmethod
    def take(self, selection: Selection) -> Batch:
        """Returns the features of the selected rows, in their order; pure, and thread-safe."""

    def padding_of(self, feature: str) -> int:
        """Returns what a feature has in rows that fill up a batch."""
        return 0

    def find(self, examples: np.ndarray) -> Places:
        """Returns where examples of the source stand; DataError for rows that do not know."""
        raise DataError(f"{type(self).__name__} do not say which examples they hold")

    @property
    def density(self) -> Density | None:
        """How full the rows are, exactly; None if unknown before all are made."""
        return None


class Batches(Iterator[Batch]):
    """Endless batches of shuffled rows of mixed components.

    A batch is a pure function of seed, position and host. Setting `position`, the number of
    examples consumed by all hosts, resumes a run, also with another batch size or other hosts.
    `batch` counts rows over all hosts; `rates` and `max_epochs` are as in `Order`. For
    `examples_before`, `examples_per_row` are means by component name; by default 1, with names "0",
    "1", ..., or "" for one component. `components` may be replaced by ones of the same lengths.
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
        self.position = 0
        self.batch = batch
        self.components = components
        self._order = Order([len(rows) for rows in components], rates, max_epochs, seed=seed)
        names = map(str, range(len(components))) if len(components) > 1 else [""]
        self._examples_per_row = examples_per_row or dict.fromkeys(names, 1.0)
        self._local = host.rows_of(batch)

    def __next__(self) -> Batch:
        share = len(self._local)
        batch: dict[str, np.ndarray] = {}
        for component, places, selection in self._order.at(self.position + self._local):
            for name, values in self.components[component].take(selection).items():
                if name not in batch:
                    batch[name] = np.zeros([share, *values.shape[1:]], values.dtype)
                batch[name][places] = values
        self.position += self.batch
        return batch

    def find(self, component: int, examples: np.ndarray, before: int) -> tuple[Places, np.ndarray]:
        """Returns where examples of a component stand before a position, in ascending order.

        A place for each epoch, and the position of its row, int64 [places].
        """
        places = self.components[component].find(examples)
        positions, numbers = self._order.find(component, places.rows, before)
        numbers = numbers[np.argsort(positions, kind="stable")]
        return Places(*(values[numbers] for values in places)), np.sort(positions)

    def components_at(self, count: int) -> list[str]:
        names = list(self._examples_per_row)
        components = [""] * count
        for component, places, _ in self._order.at(self.position + np.arange(count)):
            for place in places.tolist():
                components[place] = names[component]
        return components

    def examples_before(self, position: int) -> dict[str, float]:
        rows = self._order.count_before(position)
        named = zip(self._examples_per_row.items(), rows, strict=True)
        return {name: count * per_row for (name, per_row), count in named}


class CountedBatches(Iterator[Batch]):
    """A number of batches: `operator.length_hint` says how many are left."""

    def __init__(self, batches: Iterable[Batch], count: int):
        self._batches = iter(batches)
        self._left = count

    @classmethod
    def chain(cls, parts: Sequence[Iterator[Batch]]) -> CountedBatches:
        return cls(itertools.chain.from_iterable(parts), sum(map(operator.length_hint, parts)))

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self._left -= 1
        return batch

    def __length_hint__(self) -> int:
        return self._left


def every_row(rows: Rows, batch: int, max_rows: int | None = None) -> CountedBatches:
    """Returns all rows, or the `max_rows` of `choose_rows`, in order; padding fills up a batch."""
    numbers = choose_rows(len(rows), max_rows)

    def take(first: int) -> Batch:
        some = numbers[first : first + batch]
        return fill_up(rows.take(Selection(some, np.zeros_like(some))), batch, rows)

    starts = range(0, len(numbers), batch)
    return CountedBatches(map(take, starts), len(starts))


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
