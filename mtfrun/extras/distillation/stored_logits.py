"""Predictions of a teacher that are stored for every row of training data: its likeliest ids.

A directory with, for every task n of the data, in their order,

  n-ids.npy            uint16 or int32 [rows, length, top_k], the likeliest ids of every target
  n-probabilities.npy  uint16 of this shape, their probabilities in 65535ths, rounded down
  manifest.json        the data that they belong to, the temperature, the teacher, and a hash

It is written beside its place and renamed, so that it is complete or absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import MANIFEST
from mtfrun.data.data import IDS, Data
from mtfrun.data.errors import DataError
from mtfrun.data.rows.batches import Batch, Batches, Places, Rows, fill_up
from mtfrun.data.rows.order import Selection
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.errors.differences import changes, list_changes
from mtfrun.errors.untrusted import parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.experiment.conversion.importer import check_new, replaced_directory

TEACHER_IDS, TEACHER_PROBABILITIES = "teacher_ids", "teacher_probabilities"
"""Features {length, top_k} int32 beside the targets {length}."""

PARTS_OF_1 = 65535
"""The unit of probabilities is 1 / PARTS_OF_1."""

_FORMAT = 1
_LARGEST_MANIFEST = 16_000_000
_NAMES = ("ids", "probabilities")

# Returns the ids and probabilities [batch, length, top_k] of a batch.
Predict = Callable[[Batch], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class StoredLogits:
    """The predictions of all training rows, mapped into memory; see the files above."""

    directory: Path
    manifest: Mapping[str, Any]
    tasks: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def open(cls, path: str, data: Data) -> StoredLogits:
        """Opens the predictions for the training rows of data; DataError for other data."""
        directory = Path(path).expanduser()
        try:
            manifest = parse_json(read_regular(directory / MANIFEST, _LARGEST_MANIFEST))
            if manifest["format"] != _FORMAT:
                raise InputError(f"format {manifest['format']}, not {_FORMAT}")
            files = [[directory / f"{i}-{x}.npy" for x in _NAMES] for i in range(manifest["tasks"])]
            tasks = tuple((_map(ids), _map(probabilities)) for ids, probabilities in files)
            if any(ids.ndim != 3 or ids.shape != other.shape for ids, other in tasks):
                raise InputError("sizes that differ")
            saved = manifest["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)[:100]
            raise DataError(
                f"no logits of a teacher in {path} ({reason}): store them with `mtfrun "
                f"data logits --model_dir=/tmp/teacher --to={path}`"
            ) from error
        differing = changes(saved, _fingerprint(data), identity=IDS)
        if differing:
            raise DataError(
                f"the logits in {path} are of other training rows: {list_changes(differing)}: "
                "store them again"
            )
        return cls(directory, manifest, tasks)

    @property
    def features(self) -> dict[str, mtf.Shape]:
        _, length, top_k = self.tasks[0][0].shape
        shape = mtf.Shape([mtf.Dimension("length", length), mtf.Dimension("top_k", top_k)])
        return {TEACHER_IDS: shape, TEACHER_PROBABILITIES: shape}

    def add_to(self, batches: Batches) -> None:
        """Adds the features to the rows of training batches."""
        pairs = zip(batches.components, self.tasks, strict=True)
        batches.components = [_RowsWithLogits(rows, *arrays) for rows, arrays in pairs]


def store_logits(
    path: str, data: Data, predict: Predict, *, batch: int, about: Mapping[str, object]
) -> int:
    """Writes the predictions for all training rows of data, and returns the number of rows.

    `about` are the manifest's temperature and teacher. DataError if the directory exists, or rows
    differ between epochs, as with noise.
    """
    directory = Path(path).expanduser()
    check_new(directory, "--to")
    components = data.train(batch, seed=0).components
    total, done, digest = sum(map(len, components)), 0, hashlib.sha256()
    with (
        replaced_directory(directory) as work,
        progress.Work("predicting targets", total, "rows") as predicting,
    ):
        for number, rows in enumerate(components):
            _check_fixed(rows, batch)
            files: list[np.memmap[Any, Any]] = []
            for first in range(0, len(rows), batch):
                numbers = np.arange(first, min(first + batch, len(rows)))
                taken = rows.take(Selection(numbers, np.zeros_like(numbers)))
                values = [x[: len(numbers)] for x in predict(fill_up(taken, batch, rows))]
                files = files or [
                    np.lib.format.open_memmap(
                        work / f"{number}-{name}.npy", "w+", x.dtype, (len(rows), *x.shape[1:])
                    )
                    for name, x in zip(_NAMES, values, strict=True)
                ]
                for file, value in zip(files, values, strict=True):
                    file[numbers] = value
                    digest.update(np.ascontiguousarray(value).data)
                done += len(numbers)
                predicting.move_to(done)
            for file in files:
                file.flush()
        manifest = {
            "format": _FORMAT,
            "tasks": len(components),
            "data": _fingerprint(data),
            "sha256": digest.hexdigest(),
            **about,
        }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return total


class _RowsWithLogits(Rows):
    def __init__(self, rows: Rows, ids: np.ndarray, probabilities: np.ndarray):
        if len(ids) != len(rows):
            raise DataError(f"there are logits of {len(ids)} rows, and {len(rows)} rows")
        self._rows, self._ids, self._probabilities = rows, ids, probabilities

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, selection: Selection) -> Batch:
        return {
            **self._rows.take(selection),
            TEACHER_IDS: self._ids[selection.rows].astype(np.int32),
            TEACHER_PROBABILITIES: self._probabilities[selection.rows].astype(np.int32),
        }

    def padding_of(self, feature: str) -> int:
        return self._rows.padding_of(feature)

    def find(self, examples: np.ndarray) -> Places:
        return self._rows.find(examples)


def _map(path: Path) -> np.ndarray:
    # A plain array: np.memmap slows every access.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _check_fixed(rows: Rows, batch: int) -> None:
    """Raises DataError if the targets of rows depend on the epoch or the seed."""
    numbers = np.arange(min(batch, len(rows)))
    one, other = (
        rows.take(Selection(numbers, np.full_like(numbers, epoch), seed=epoch)) for epoch in (0, 1)
    )
    if any(not np.array_equal(one[name], other[name]) for name in one):
        raise DataError(
            "the rows have other noise in every epoch: name the teacher's run as Teacher.path"
        )


def _fingerprint(data: Data) -> Any:
    return mask_json(data.fingerprint())
