"""The fingerprint of the data in the manifests of checkpoints, and its comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mtfrun import processes
from mtfrun.data import Data
from mtfrun.data.fingerprint import (
    IDS,
    VOCABULARIES,
    changes,
    check_unchanged,
    check_vocabularies,
)
from mtfrun.rundir import Manifest

# The entry of a manifest.
DATA = "data"


def fingerprint_of(data: Data) -> Mapping[str, object]:
    """Returns what determines the rows of training, as JSON will return it."""
    fingerprint: Mapping[str, object] = json.loads(json.dumps(data.fingerprint()))
    return fingerprint


def check_same_training_data(data: Data) -> None:
    """Raises InputError if the processes train on different data. Collective."""
    if processes.count() > 1:
        processes.check_same("training data", fingerprint_of(data), _differences)


def check_same_split(data: Data, split: str | None) -> None:
    """Raises InputError if the processes have different vocabularies or texts. Collective.

    Args:
      data: the run's data.
      split: the split whose examples are also compared; None compares vocabularies only.
    """
    if processes.count() > 1:
        caches = data.caches(split) if split is not None else ()
        value = {
            VOCABULARIES: {name: v.fingerprint for name, v in data.vocabularies.items()},
            f"split {split}": {cached.title: {IDS: cached.fingerprint} for cached in caches},
        }
        processes.check_same("vocabulary or data", value, _differences)


def _differences(first: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [f"{x.name} is {x.new} instead of {x.old}" for x in changes(first, other)]


def check_same_vocabularies(manifest: Manifest, data: Data) -> None:
    """Raises DataError if a checkpoint was trained with another vocabulary."""
    check_vocabularies(_saved(manifest), data.vocabularies, _name(manifest))


def check_same_data(manifest: Manifest, data: Data, *, accept_changes: bool) -> None:
    """Raises DataError if a checkpoint was trained on other data.

    Args:
      manifest: of the checkpoint.
      data: of the run.
      accept_changes: whether all but the vocabularies may have changed.
    """
    check_same_vocabularies(manifest, data)
    if not accept_changes:
        check_unchanged(_saved(manifest), fingerprint_of(data), _name(manifest))


def _saved(manifest: Manifest) -> Mapping[str, object]:
    saved = manifest.metadata.get(DATA)
    return saved if isinstance(saved, Mapping) else {}


def _name(manifest: Manifest) -> str:
    return f"ckpt-{manifest.step}"
