"""Inputs and outputs of a trained model: prompts, images, answers, records."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from mtfrun.display.progress import Work
from mtfrun.errors import InputError

T = TypeVar("T")

# Called between batches with the number of inputs that are done; may raise to stop.
Progress = Callable[[int], None]


class Record(NamedTuple):
    """The output for one input: fields of its JSON line, and texts for people, best first.

    `files`: contents by name, which are written beside the line, see `Inference.writes_files`.
    """

    fields: dict[str, object]
    texts: Sequence[str] = ()
    files: Mapping[str, bytes] = {}


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, uint8 [rows, cols, channels], read once and in order, with identifying fields."""

    count: int
    examples: Iterable[tuple[np.ndarray, dict[str, object]]]

    def __len__(self) -> int:
        return self.count

    def separate(self) -> tuple[Iterator[np.ndarray], list[dict[str, object]]]:
        """Returns the images, and a list that gets the fields of each when it is read."""
        all_fields: list[dict[str, object]] = []

        def images() -> Iterator[np.ndarray]:
            for image, fields in self.examples:
                all_fields.append(fields)
                yield image

        return images(), all_fields

    def map(
        self,
        function: Callable[[Iterator[np.ndarray], Progress], Sequence[T]],
        title: str,
        progress: Progress | None,
    ) -> list[tuple[dict[str, object], T]]:
        """Returns fields and result of each image; the title is of a bar, "classifying"."""
        images, all_fields = self.separate()
        with Work(title, len(self), "images") as work:

            def report(done: int) -> None:
                work.move_to(done)
                if progress is not None:
                    progress(done)

            results = function(images, report)
        return list(zip(all_fields, results, strict=True))


class Prompts(list[bytes]):
    """Prompts, and identifying fields of each, which come first in its record."""

    fields: Sequence[Mapping[str, object]] = ()


class Source(Protocol):
    """Inputs of a command."""

    @property
    def split(self) -> str | None:
        """The split of the experiment's data to read; None for other inputs."""

    def texts(self) -> Sequence[bytes]:
        """Returns texts, of any bytes. Raises InputError if the inputs are not texts."""

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        """Returns images, each read by its path. Raises InputError as `texts`."""


def split_into_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of `size` items, the last one shorter; `itertools.batched` of Python 3.12."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def require(value: object, contract: type[T], who: str, remedy: str) -> T:
    """Returns the value if it fulfils the contract, else an InputError says who needs it."""
    if isinstance(value, contract):
        return value
    what = f"{who} needs {contract.__name__}"
    raise InputError(f"{what}, which {type(value).__name__} is not: {remedy}")
