"""Where documents went: the steps of a run that read them."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun.data import DataError
from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.rows.batches import Batches
from mtfrun.data.rows.dropped_documents import find_hashes, hashes_of
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.runs.opening import ConfiguredData
from mtfrun.experiment.saved_configuration import SavedConfiguration
from mtfrun.extras.audit.ledger import newest_recorded_step
from mtfrun.extras.audit.text_search import find_text
from mtfrun.extras.data_viewer.row_view import TRAIN
from mtfrun.rundir import RunDirectory

# Limits of the lines about a document: steps, and characters of a text.
_MOST_STEPS, _MOST_CHARACTERS = 8, 200


class Exposure(NamedTuple):
    """A step that reads a document: the row in its batch, from 1, and the segment, 0 for none."""

    step: int
    row: int
    segment: int

    def __str__(self) -> str:
        segment = f", segment {self.segment}" if self.segment else ""
        return f"{self.step:,} (row {self.row:,}{segment})"


@dataclasses.dataclass(frozen=True)
class ExposedDocument:
    """A document of a task's training split, and the steps that read it."""

    task: str
    number: int  # its number in the split, from 1; empty documents do not count
    hash: str
    texts: dict[str, str]  # decoded texts by feature
    # both: counts in the steps that the run has made, up to `last`, and in those until `until`, its
    # last step
    read: Sequence[Exposure]
    to_come: Sequence[Exposure]
    last: int
    until: int

    def fields(self) -> dict[str, object]:
        """Returns the fields as JSON."""
        steps = {
            name: [exposure._asdict() for exposure in exposures]
            for name, exposures in (("read", self.read), ("to_come", self.to_come))
        }
        return {**dataclasses.asdict(self), **steps}

    def lines(self) -> Iterator[str]:
        yield f"{self.hash}: document {self.number:,} of {escape(self.task)}"
        for name, text in self.texts.items():
            shown = escape(" ".join(text.split()))
            yield f"  {name}: {shown[:_MOST_CHARACTERS]}{'...' * (len(shown) > _MOST_CHARACTERS)}"
        yield f"  read by {_steps_text(self.read)} of {self.last:,}"
        if self.until > self.last:
            yield f"  to come until step {self.until:,}: {_steps_text(self.to_come)}"


def _steps_text(exposures: Sequence[Exposure]) -> str:
    number = len({exposure.step for exposure in exposures})
    text = f"{number:,} step{'s' * (number != 1)}"
    if exposures:
        more = ["..."] if len(exposures) > _MOST_STEPS else []
        text += f" ({'; '.join([*map(str, exposures[:_MOST_STEPS]), *more])})"
    return text


def find_exposed(
    configured: ConfiguredData,
    run: RunDirectory,
    most: int,
    *,
    text: str | None = None,
    hashes: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> Iterator[ExposedDocument]:
    """Yields the first documents that contain a text, or with these hashes, or numbers from 1.

    DataError if the data have changed since the run, or are not made of documents.
    """
    newest = run.checkpoints().manifest(None)
    if newest is not None:
        saved = SavedConfiguration(configured.data, None, 0)
        saved.check(newest, has_same_variables=False, accept_changes=False)
    caches = list(configured.data.caches(TRAIN))
    if not caches or any(cached.texts is None for cached in caches):
        raise DataError(f"{type(configured.data).__name__} has no documents to look for")
    steps = _Steps(configured, run)
    for component, cached in enumerate(caches):
        assert cached.texts is not None
        chosen: list[int] = []
        if text is not None:
            found = find_text(cached.texts, text, configured.data.vocabularies)
            chosen += itertools.islice(found, most)
        for found_documents in find_hashes(cached.texts, hashes).values():
            chosen += found_documents.tolist()
        chosen += [number - 1 for number in numbers if 1 <= number <= len(cached.texts)]
        documents = np.array(chosen[:most], np.int64)
        most -= len(documents)
        for i, (read, to_come) in enumerate(steps.exposures(component, documents)):
            yield ExposedDocument(
                cached.title,
                int(documents[i]) + 1,
                hashes_of(cached.texts, documents[i : i + 1])[0],
                document_texts(cached.texts, int(documents[i])),
                read,
                to_come,
                steps.last,
                steps.until,
            )


class _Steps:
    """The steps of a run: `last` is the last one that it has made, `until` its last one."""

    def __init__(self, configured: ConfiguredData, run: RunDirectory):
        self._size = configured.batch_size
        self._base, self._position = newest_position(run)
        self._batches = batches_at(configured, run, 1)
        status = run.record().status()
        made, train_steps = (0, 0) if status is None else (status.step, status.train_steps)
        self.last = max(self._base, made, newest_recorded_step(run.path))
        self.until = max(train_steps, self.last)

    def exposures(
        self, component: int, documents: np.ndarray
    ) -> Iterator[tuple[list[Exposure], list[Exposure]]]:
        """Yields for each document the exposures until the last step, and those to come."""
        end = self._position + (self.until - self._base) * self._size
        places, positions = self._batches.find(component, documents, end)
        steps = self._base + 1 + (positions - self._position) // self._size
        rows = (positions - self._position) % self._size + 1
        for number in range(len(documents)):
            (of,) = np.nonzero(places.examples == number)
            columns = (x[of].tolist() for x in (steps, rows, places.segments))
            exposures = list(itertools.starmap(Exposure, zip(*columns, strict=True)))
            read = bisect.bisect_right(exposures, self.last, key=lambda x: x.step)
            yield exposures[:read], exposures[read:]


def document_texts(cache: TokenCache, document: int) -> dict[str, str]:
    """Returns the texts of a document by feature, as the vocabularies decode them."""
    ends = cache.ends.reshape(-1)
    first = document * len(cache.features)
    bounds = [int(ends[first - 1]) if first else 0, *cache.ends[document].tolist()]
    return {
        name: vocabulary.decode(cache.tokens[begin:end])
        for name, vocabulary, (begin, end) in zip(
            cache.features, cache.vocabularies, itertools.pairwise(bounds), strict=True
        )
    }


def batches_at(configured: ConfiguredData, run: RunDirectory, step: int) -> Batches:
    """Returns the batches of a run's training, of which the next one is the step's."""
    check_range("Training.batch_size", configured.batch_size, COUNT)
    batches = configured.data.train(configured.batch_size, seed=configured.seed)
    for term in configured.loss_terms:
        if (features := term.features(configured.data)) is not None:
            features.add_to(batches)
    last, position = newest_position(run)
    batches.position = max(0, position + (step - 1 - last) * configured.batch_size)
    return batches


def newest_position(run: RunDirectory) -> tuple[int, int]:
    """Returns the step of the newest checkpoint, and the number of examples read before it.

    They are not in proportion if batches once had another size.
    """
    newest = run.checkpoints().manifest(None)
    return (0, 0) if newest is None else (newest.step, newest.metadata.get("data_position", 0))
