"""The documents that differ in the data of two runs, and the rows of a batch that have them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun.configuration.run_files import CONFIG
from mtfrun.data.cache_directory import MANIFEST, DamagedCacheError, cache_directories
from mtfrun.data.documents import hashes_of
from mtfrun.data.token_cache import TokenCache
from mtfrun.digests import digest_of_rows
from mtfrun.errors import InputError
from mtfrun.experiment.runs.settings import Settings
from mtfrun.rundir import RunDirectory
from mtfrun.tools.auditing.causes import RunRecords
from mtfrun.tools.auditing.ledgers import RunLedger
from mtfrun.tools.data_viewer.configured import ConfiguredData, configure
from mtfrun.tools.data_viewer.exposures import document_texts
from mtfrun.untrusted import escape

# Characters of a text before and from its first difference, and rows and documents.
_BEFORE, _AFTER, _MOST_ROWS, _MOST_DOCUMENTS = 20, 40, 5, 100_000
_A, _B = range(2)


class _Batch(NamedTuple):
    """The data of a run, and the batch of a step as the run's ledger has it."""

    configured: ConfiguredData
    run: RunDirectory
    step: int
    values: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, run: RunDirectory, settings: Settings, step: int) -> _Batch | None:
        """None if the texts are no longer what the run has read, or cannot be read."""
        with contextlib.suppress(InputError, OSError):
            configured = configure(settings, os.path.join(run.path, CONFIG))  # noqa: PTH118
            size = configured.batch_size
            values = next(configured.batches_at(run, step))
            record = RunLedger.of(run.path).records.get(step)
            if record is not None and record.batch == digest_of_rows(values, range(size)):
                return cls(configured, run, step, values)
        return None

    def find(self, component: int, documents: np.ndarray) -> tuple[int, int] | None:
        """Returns the first row that has one of the documents, from 1, and which one."""
        batches = self.configured.batches_at(self.run, self.step)
        begin, size = batches.position, self.configured.batch_size
        with contextlib.suppress(InputError):  # rows that do not know their documents
            places, positions = batches.find(component, documents[:_MOST_DOCUMENTS], begin + size)
            for example, position in zip(places.examples, positions, strict=True):
                if position >= begin:
                    return int(position - begin) + 1, int(documents[example])
        return None


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
    batches = [_Batch.of(run, settings, step) if is_read else None for run in runs]
    lines = []
    for component, (title, texts) in enumerate(records[_A].get("texts", {}).items()):
        hashes = [texts.get("ids"), records[_B].get("texts", {}).get(title, {}).get("ids")]
        if None in hashes or hashes[_A] == hashes[_B]:
            continue
        caches = [_find_cache(x) for x in hashes]
        if caches[_A] is None or caches[_B] is None:
            lines.append(f"the documents of {escape(title)} are not in a cache any more")
            continue
        vocabularies = _vocabularies(runs, settings)
        pair = [_with_vocabularies(cache, vocabularies) for cache in caches if cache is not None]
        lines += _of_task(title, component, pair, batches, step if is_read else None)
    a, b = batches
    return [*lines, *(_of_rows(a, b) if a is not None and b is not None else [])]


def _of_task(
    title: str,
    component: int,
    caches: Sequence[TokenCache],
    batches: Sequence[_Batch | None],
    step: int | None,
) -> Iterator[str]:
    differing = _differing(*caches)
    place = "" if step is not None else ", which no step has read"
    document = [int(x[0]) if x.size else None for x in differing]
    for side in (_A, _B):
        batch = batches[side]
        found = batch.find(component, differing[side]) if batch is not None else None
        if found is not None:
            row, number = found
            place = f", row {row:,} of step {step:,}"
            is_paired = len(caches[_A]) == len(caches[_B])
            document = [number if is_paired or side == x else None for x in (_A, _B)]
            break
    texts = [
        None if number is None else " / ".join(document_texts(cache, number).values())
        for cache, number in zip(caches, document, strict=True)
    ]
    number = next(x for x in document if x is not None)
    more = max(x.size for x in differing) - 1
    others = f"; {more:,} more documents differ" if more > 0 else ""
    yield f"document {number + 1:,} of {escape(title)}{place}: {_excerpts(*texts)}{others}"


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
    """Returns both texts from shortly before their first difference."""
    if a is None or b is None:
        return f"only in {'B' if a is None else 'A'}: {_excerpt(a or b or '', 0)}"
    pairs = enumerate(zip(a, b, strict=False))
    same = next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))
    return f"{_excerpt(a, same)}, and {_excerpt(b, same)} in B"


def _excerpt(text: str, place: int) -> str:
    begin = max(place - _BEFORE, 0)
    part = " ".join(text[begin : place + _AFTER].split())
    return f'"{"..." * (begin > 0)}{escape(part)}{"..." * (place + _AFTER < len(text))}"'


def _of_rows(a: _Batch, b: _Batch) -> list[str]:
    """Returns a line on the rows of two batches that differ, if their shapes are the same."""
    pairs = [(values, b.values.get(name)) for name, values in a.values.items()]
    rows: set[int] = set()
    for one, other in pairs:
        if other is None or one.shape != other.shape:
            return []
        differs = (one != other).reshape(len(one), -1).any(axis=1)
        rows |= {*(np.nonzero(differs)[0] + 1).tolist()}
    shown = ", ".join(map(str, sorted(rows)[:_MOST_ROWS]))
    more = f" and {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
    return [f"row{'s' * (len(rows) > 1)} {shown}{more} of step {a.step:,} differ"] if rows else []


def _find_cache(fingerprint: str) -> TokenCache | None:
    """Returns a cache with this fingerprint of ids, without vocabularies."""
    for directory in cache_directories(None):
        with contextlib.suppress(OSError, ValueError, KeyError, DamagedCacheError):
            manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
            if TokenCache.fingerprint_of(manifest) == fingerprint:
                return TokenCache.open(directory)
    return None


def _vocabularies(runs: Sequence[RunDirectory], settings: Settings) -> Mapping[str, Any]:
    for run in runs:
        with contextlib.suppress(InputError, OSError):
            config = os.path.join(run.path, CONFIG)  # noqa: PTH118
            return configure(settings, config).data.vocabularies
    return {}


def _with_vocabularies(cache: TokenCache, vocabularies: Mapping[str, Any]) -> TokenCache:
    return dataclasses.replace(cache, vocabularies=[vocabularies[x] for x in cache.features])
