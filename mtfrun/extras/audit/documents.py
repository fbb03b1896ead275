"""The documents that differ in the data of two runs, and the rows of a batch that have them."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from mtfrun.extras.audit.causes import RunRecords
from mtfrun.extras.audit.exposures import batches_at, document_texts
from mtfrun.extras.audit.ledger import RunLedger
from mtfrun.files.digests import digest_of_rows
from mtfrun.rundir import RunDirectory

# Characters of a text before and from its first difference; rows that are listed, documents that
# are looked for.
_BEFORE, _AFTER, _MOST_ROWS, _MOST_DOCUMENTS = 20, 40, 5, 100_000
_A, _B = range(2)


class _Batch(NamedTuple):
    """The data of a run with the caches that it has read, and its batch of a step."""

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
        """None if it is not the batch in the run's ledger, or cannot be made."""
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
    ) -> list[tuple[int, int]]:
        """Returns pairs of a row of the batch, from 1, and one of the documents in it."""
        begin = self.batches.position - self.configured.batch_size
        with contextlib.suppress(InputError):  # rows that do not know their documents
            places, positions = self.batches.find(
                component, documents[:_MOST_DOCUMENTS], self.batches.position
            )
            return [
                (int(position - begin) + 1, int(documents[example]))
                for example, position in zip(places.examples, positions, strict=True)
                if position >= begin and (not rows or position - begin + 1 in rows)
            ]
        return []

    def text(self, row: int) -> str:
        """Returns the texts of a row, from 1."""
        vocabularies = self.configured.data.vocabularies
        named = {name: v for name, v in vocabularies.items() if name in self.values}
        return " / ".join(v.decode(self.values[name][row - 1]) for name, v in named.items())


def describe_documents(
    runs: Sequence[RunDirectory], settings: Settings, step: int, *, is_read: bool
) -> list[str]:
    """Returns lines on the documents that differ in the training data of two runs.

    Texts are read from the caches that the trainings have made. `is_read`: whether the step is the
    first one with another batch; otherwise no step has read what differs.
    """
    records = [RunRecords.of(run.path).at(step).get("data") or {} for run in runs]
    if records[_A].get("vocabularies") != records[_B].get("vocabularies"):
        return []
    texts = [record.get("texts", {}) for record in records]
    configured = [configure_data(settings, run.config_path) for run in runs]
    vocabularies = configured[_B].data.vocabularies
    caches = [_find_caches(x, vocabularies) for x in texts]
    batches: list[_Batch | None] = [None, None]
    if is_read:
        sides = zip(runs, configured, caches, strict=True)
        batches = [_Batch.of(*side, step) for side in sides]
    rows = _differing_rows(*batches)
    place = f"of step {step:,}" if is_read else ""
    lines = []
    for component, title in enumerate(texts[_A]):
        hashes = [x.get(title, {}).get("ids") for x in texts]
        if None in hashes or hashes[_A] == hashes[_B]:
            continue
        pair = [x.get(title) for x in caches]
        if pair[_A] is None or pair[_B] is None:
            lines.append(f"the documents of {escape(title)} are not in a cache any more")
            continue
        lines.append(_of_task(component, [x for x in pair if x], batches, rows, place, title))
    if len(rows) > bool(lines):
        more = f" and {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
        shown = ", ".join(map(str, rows[:_MOST_ROWS]))
        lines.append(
            f"row{'s' * (len(rows) > 1)} {shown}{more} {place} differ{'s' * (len(rows) == 1)}"
        )
    return lines


def _of_task(
    component: int,
    caches: Sequence[TokenCache],
    batches: Sequence[_Batch | None],
    rows: Sequence[int],
    place: str,
    title: str,
) -> str:
    differing = _differing(*caches)
    numbers = [int(x[0]) if x.size else None for x in differing]
    is_paired = len(caches[_A]) == len(caches[_B])
    where, row = "" if place else ", which no step has read", 0
    for side in (_A, _B):
        batch = batches[side]
        found = batch.find(component, differing[side], rows) if batch is not None else []
        if found:
            row, document = found[0]
            where = f", row {row:,} {place}"
            numbers = [document if is_paired or side == x else None for x in (_A, _B)]
            break
    row_texts = [batch.text(row) for batch in batches if batch is not None and row and rows]
    row_texts = row_texts if len(row_texts) == len(batches) else []
    texts = [
        None if number is None else " / ".join(document_texts(cache, number).values())
        for cache, number in zip(caches, numbers, strict=True)
    ]
    number = next(x for x in numbers if x is not None)
    more = max(x.size for x in differing) - 1
    others = f"; {more:,} more documents differ" if more > 0 else ""
    # A row may have another part of a long document than its first difference.
    excerpts = _excerpts(*(row_texts or texts))
    line = _line(texts, row_texts)
    return f"document {number + 1:,} of {escape(title)}{line}{where}: {excerpts}{others}"


def _differing_rows(a: _Batch | None, b: _Batch | None) -> list[int]:
    """Returns the rows of two batches that differ, from 1; none if their shapes differ."""
    rows: set[int] = set()
    if a is None or b is None:
        return []
    for name, one in a.values.items():
        other = b.values.get(name)
        if other is None or one.shape != other.shape:
            return []
        differs = (one != other).reshape(len(one), -1).any(axis=1)
        rows |= {*(np.nonzero(differs)[0] + 1).tolist()}
    return sorted(rows)


def _differing(a: TokenCache, b: TokenCache) -> tuple[np.ndarray, np.ndarray]:
    """Returns the documents of each that differ, without the same ones at both ends."""
    hashes = [np.array(hashes_of(cache, np.arange(len(cache)))) for cache in (a, b)]
    common = min(len(a), len(b))
    (places,) = np.nonzero(hashes[_A][:common] != hashes[_B][:common])
    if len(a) == len(b):
        return places, places
    first = int(places[0]) if places.size else common
    behind = hashes[_A][::-1][: common - first] != hashes[_B][::-1][: common - first]
    same = int(np.argmax(behind)) if behind.any() else common - first
    return np.arange(first, len(a) - same), np.arange(first, len(b) - same)


def _excerpts(a: str | None, b: str | None) -> str:
    if a is None or b is None:
        return f"only in {'B' if a is None else 'A'}: {_excerpt(a or b or '', 0)}"
    same = _common(a, b)
    return f"{_excerpt(a, same)}, and {_excerpt(b, same)} in B"


def _common(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _line(texts: Sequence[str | None], rows: Sequence[str]) -> str:
    a, b = ((text or "").splitlines() for text in texts)
    part = ""
    if rows:
        same = _common(*rows)
        part = rows[_A][:same].rpartition("\n")[2] + rows[_A][same:].partition("\n")[0]
    pairs = enumerate(itertools.zip_longest(a, b), 1)
    differing = [(i, x or "") for i, (x, y) in pairs if x != y]
    if not differing or max(len(a), len(b)) == 1:
        return ""
    first = differing[0][0]
    line = next((i for i, x in differing if part in x), first)
    return f" (line {line:,})" if line == first else f" (line {line:,}, and from {first:,} on)"


def _excerpt(text: str, place: int) -> str:
    begin = max(place - _BEFORE, 0)
    part = " ".join(text[begin : place + _AFTER].split())
    return f'"{"..." * (begin > 0)}{escape(part)}{"..." * (place + _AFTER < len(text))}"'


def _find_caches(
    texts: Mapping[str, Any], vocabularies: Mapping[str, Vocabulary]
) -> dict[str, TokenCache]:
    """Returns the caches by task whose ids have the recorded hashes, as far as they are there."""
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
