"""The steps of a run that read a document."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

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
from mtfrun.extras.audit.positions import find_positions
from mtfrun.extras.audit.text_search import find_text
from mtfrun.extras.data_viewer.row_view import TRAIN
from mtfrun.rundir import RunDirectory

# Limits of the lines about a document: steps, and characters of a text.
_MOST_STEPS, _MOST_CHARACTERS = 8, 200


@dataclasses.dataclass(frozen=True)
class Exposure:
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
    # the exposures up to `last`, the newest step, and after it up to `until`, the training's last
    read: Sequence[Exposure]
    to_come: Sequence[Exposure]
    last: int
    until: int

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
    places = [str(exposure) for exposure in exposures[:_MOST_STEPS]]
    places += ["..."] * (len(exposures) > _MOST_STEPS)
    return f"{number:,} step{'s' * (number != 1)}" + f" ({'; '.join(places)})" * bool(places)


def find_exposed(
    configured: ConfiguredData,
    run: RunDirectory,
    most: int,
    *,
    text: str | None = None,
    hashes: Sequence[str] = (),
    numbers: Sequence[int] = (),
) -> Iterator[ExposedDocument]:
    """Yields the first documents that contain the text, or have one of the hashes or numbers.

    Numbers begin at 1. DataError if the data has changed since the run, or has no documents.
    """
    newest = run.checkpoints().manifest(None)
    if newest is not None:
        saved = SavedConfiguration(configured.data, None, 0)
        saved.check(newest, has_same_variables=False, accept_changes=False)
    caches = list(configured.data.caches(TRAIN))
    if not caches or any(cached.texts is None for cached in caches):
        raise DataError(f"{type(configured.data).__name__} has no documents to look for")
    size, (base, position) = configured.batch_size, newest_position(run)
    batches = batches_at(configured, run, 1)
    status = run.record().status()
    made, train_steps = (0, 0) if status is None else (status.step, status.train_steps)
    last = max(base, made, newest_recorded_step(run.path))
    until = max(train_steps, last)
    for component, cached in enumerate(caches):
        assert cached.texts is not None
        chosen = list[int]()
        if text is not None:
            matches = find_text(cached.texts, text, configured.data.vocabularies)
            chosen += itertools.islice(matches, most)
        for documents in find_hashes(cached.texts, hashes).values():
            chosen += documents.tolist()
        chosen += [number - 1 for number in numbers if 1 <= number <= len(cached.texts)]
        documents = np.array(chosen[:most], np.int64)
        most -= len(documents)
        before = position + (until - base) * size
        places, positions = find_positions(batches, component, documents, before)
        steps, rows = divmod(positions - position, size)
        for i, document in enumerate(documents.tolist()):
            (indices,) = np.nonzero(places.examples == i)
            columns = (x[indices].tolist() for x in (base + 1 + steps, rows + 1, places.segments))
            exposures = list(itertools.starmap(Exposure, zip(*columns, strict=True)))
            yield ExposedDocument(
                cached.title,
                document + 1,
                hashes_of(cached.texts, documents[i : i + 1])[0],
                document_texts(cached.texts, document),
                [x for x in exposures if x.step <= last],
                [x for x in exposures if x.step > last],
                last,
                until,
            )


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
    """Returns the batches of a run's training; the next one is the step's."""
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

    They are not in proportion if the batch size has changed.
    """
    newest = run.checkpoints().manifest(None)
    return (0, 0) if newest is None else (newest.step, newest.metadata.get("data_position", 0))
