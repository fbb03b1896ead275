"""The documents that differ in the data of two runs, and the rows of a batch that have them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.data import DataError
from mtfrun.data.cache.directory import MANIFEST, cache_directories
from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.files import LARGEST_CONTENT
from mtfrun.data.rows.batches import Batches
from mtfrun.data.rows.dropped_documents import hashes_of
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import escape, read_regular
from mtfrun.experiment.runs.opening import ConfiguredData, Settings, configure_data
from mtfrun.extras.audit.causes import record_at, trainings_of
from mtfrun.extras.audit.exposures import batches_at, document_texts
from mtfrun.extras.audit.ledger import RunLedger
from mtfrun.extras.audit.positions import find_positions
from mtfrun.files.digests import digest_of_rows
from mtfrun.rundir import RunDirectory

# Characters of a text before and after its first difference; the most rows that are listed, and
# documents that are searched.
_BEFORE, _AFTER, _MOST_ROWS, _MOST_DOCUMENTS = 20, 40, 5, 100_000


def describe_documents(
    runs: Sequence[RunDirectory], settings: Settings, last: int, first_batch: int | None
) -> list[str]:
    """Returns lines about the documents that differ in the training data of two runs.

    Texts are read from the caches of the trainings. `first_batch` is the first step with another
    batch; None if no step up to `last` has read a document that differs.
    """
    step = first_batch or last
    records = [record_at(trainings_of(run.path), step).get("data") or {} for run in runs]
    if records[0].get("vocabularies") != records[1].get("vocabularies"):
        return []
    texts = [record.get("texts", {}) for record in records]
    try:
        configured = [configure_data(settings, run.config_path) for run in runs]
        vocabularies = configured[1].data.vocabularies
    except InputError as error:  # such as a module that is not allowed
        return [f"the documents are not compared: {error}"]
    caches = [_find_caches(x, vocabularies) for x in texts]
    sides = zip(runs, configured, caches, strict=True)
    batches = [] if first_batch is None else [_Batch.of(*side, step) for side in sides]
    valid = [batch for batch in batches if batch is not None]
    rows = _differing_rows(*valid) if len(valid) == len(runs) else []
    place = "" if first_batch is None else f" of step {step:,}"
    lines = []
    for component, title in enumerate(texts[0]):
        hashes = [x.get(title, {}).get("ids") for x in texts]
        if None in hashes or hashes[0] == hashes[1]:
            continue
        pair = [x[title] for x in caches if title in x]
        if len(pair) < len(runs):
            lines.append(f"the documents of {escape(title)} are not in a cache any more")
            continue
        lines.append(_describe(component, pair, batches, rows, place, title))
    if len(rows) > bool(lines):
        more = f" and {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
        shown = ", ".join(map(str, rows[:_MOST_ROWS]))
        plural, singular = "s" * (len(rows) > 1), "s" * (len(rows) == 1)
        lines.append(f"row{plural} {shown}{more}{place} differ{singular}")
    return lines


@dataclasses.dataclass(frozen=True)
class _Batch:
    """The data of a run, with the caches that its training has read, and its batch of a step."""

    configured: ConfiguredData
    batches: Batches
    values: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls,
        run: RunDirectory,
        configured: ConfiguredData,
        caches: Mapping[str, TokenCache],
        step: int,
    ) -> _Batch | None:
        """Returns None if the batch cannot be made, or is not the batch in the run's ledger."""
        with contextlib.suppress(InputError, OSError):
            configured = configured._replace(data=configured.data.with_caches(caches))
            batches = batches_at(configured, run, step)
            values = next(batches)
            record = RunLedger.of(run.path).records.get(step)
            digest = digest_of_rows(values, range(configured.batch_size))
            if record is not None and record.batch == digest:
                return cls(configured, batches, values)
        return None

    def find(
        self, component: int, documents: np.ndarray, rows: Sequence[int]
    ) -> Iterator[tuple[int, int]]:
        """Yields pairs of a row of the batch, from 1, and a document in it."""
        end = self.batches.position
        with contextlib.suppress(InputError):  # rows without documents
            searched = documents[:_MOST_DOCUMENTS]
            places, positions = find_positions(self.batches, component, searched, end)
            numbers = positions - (end - self.configured.batch_size) + 1
            for document, row in zip(documents[places.examples], numbers.tolist(), strict=True):
                if row >= 1 and (not rows or row in rows):
                    yield row, int(document)

    def text(self, row: int) -> str:
        """Returns the texts of a row, from 1."""
        vocabularies = self.configured.data.vocabularies
        named = {name: v for name, v in vocabularies.items() if name in self.values}
        return " / ".join(v.decode(self.values[name][row - 1]) for name, v in named.items())


def _describe(
    component: int,
    caches: Sequence[TokenCache],
    batches: Sequence[_Batch | None],
    rows: Sequence[int],
    place: str,
    title: str,
) -> str:
    """Returns the line about a task whose caches differ."""
    differing = _differing_documents(*caches)
    numbers = [int(x[0]) if x.size else None for x in differing]
    where, row_texts = "" if place else ", which no step has read", list[str]()
    pairs = (
        (side, *pair)
        for side, batch in enumerate(batches)
        if batch is not None
        for pair in batch.find(component, differing[side], rows)
    )
    for side, row, document in itertools.islice(pairs, 1):
        where = f", row {row:,}{place}"
        is_paired = len(caches[0]) == len(caches[1])
        numbers = [document if is_paired or side == x else None for x in range(2)]
        if rows:  # then both batches exist
            row_texts = [batch.text(row) for batch in batches if batch is not None]
    texts = [
        "" if number is None else " / ".join(document_texts(cache, number).values())
        for cache, number in zip(caches, numbers, strict=True)
    ]
    number = next(x for x in numbers if x is not None)
    more = max(x.size for x in differing) - 1
    others = f"; {more:,} more documents differ" if more > 0 else ""
    a, b = row_texts or texts  # a row may have another part of a long document
    same = _common(a, b)
    excerpts = f"{_excerpt(a, same)}, and {_excerpt(b, same)} in B"
    if None in numbers and not row_texts:
        excerpts = f"only in {'B' if numbers[0] is None else 'A'}: {_excerpt(a or b, 0)}"
    line = _line(texts, row_texts)
    return f"document {number + 1:,} of {escape(title)}{line}{where}: {excerpts}{others}"


def _differing_rows(a: _Batch, b: _Batch) -> list[int]:
    """Returns the rows of two batches that differ, from 1; none if their shapes differ."""
    shapes = [{name: x.shape for name, x in batch.values.items()} for batch in (a, b)]
    if not shapes[0].items() <= shapes[1].items():
        return []
    differ = [(x != b.values[n]).reshape(len(x), -1).any(axis=1) for n, x in a.values.items()]
    rows: list[int] = (np.flatnonzero(np.any(differ, axis=0)) + 1).tolist()
    return rows


def _differing_documents(a: TokenCache, b: TokenCache) -> tuple[np.ndarray, np.ndarray]:
    """Returns the documents of both that differ, without equal ends if their numbers differ."""
    one, other = (np.array(hashes_of(cache, np.arange(len(cache)))) for cache in (a, b))
    common = min(len(a), len(b))
    places = np.flatnonzero(one[:common] != other[:common])
    if len(a) == len(b):
        return places, places
    first = int(places[0]) if places.size else common
    behind = one[::-1][: common - first] != other[::-1][: common - first]
    same = int(np.argmax(behind)) if behind.any() else common - first
    return np.arange(first, len(a) - same), np.arange(first, len(b) - same)


def _line(texts: Sequence[str], rows: Sequence[str]) -> str:
    """Returns " (line 2)": the line that the rows show, and the first line that differs."""
    lines = [text.splitlines() for text in texts]
    differing = [
        (i, x or "") for i, (x, y) in enumerate(itertools.zip_longest(*lines), 1) if x != y
    ]
    if not differing or max(map(len, lines)) == 1:
        return ""
    first = differing[0][0]
    part = ""
    if rows:
        same = _common(*rows)
        part = rows[0][:same].rpartition("\n")[2] + rows[0][same:].partition("\n")[0]
    line = next((i for i, x in differing if part in x), first)
    return f" (line {line:,})" if line == first else f" (line {line:,}, and from {first:,} on)"


def _common(a: str, b: str) -> int:
    return len(os.path.commonprefix([a, b]))  # noqa: RUF071 - not of paths


def _excerpt(text: str, place: int) -> str:
    begin = max(place - _BEFORE, 0)
    part = " ".join(text[begin : place + _AFTER].split())
    return f'"{"..." * (begin > 0)}{escape(part)}{"..." * (place + _AFTER < len(text))}"'


def _find_caches(
    texts: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]
) -> dict[str, TokenCache]:
    """Returns the caches, by task, whose ids have the recorded hashes; some may be missing."""
    titles = {record.get("ids"): title for title, record in texts.items()}
    caches = {}
    for directory in cache_directories(None):
        with contextlib.suppress(OSError, ValueError, KeyError, DataError):
            manifest = json.loads(read_regular(directory / MANIFEST, LARGEST_CONTENT))
            title = titles.get(TokenCache.fingerprint_of(manifest))
            if title is not None and title not in caches:
                cache = TokenCache.open(directory)
                writers = [vocabularies[name] for name in cache.features]
                caches[title] = dataclasses.replace(cache, vocabularies=writers)
    return caches
